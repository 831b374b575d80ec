"""The limits of a process: asked for the words of an error, where a driver does not say which one it met."""

from __future__ import annotations

import errno
import os


def no_descriptor_is_left() -> bool:
    """Return whether this process, or the machine, can open no further file."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:  # another one is no limit, and whoever asks has an error already
        return error.errno in {errno.EMFILE, errno.ENFILE}
    return False


def file_size_is_limited() -> bool:
    """Return whether this process may not make files as large as it likes."""
    try:
        import resource
    except ImportError:  # Windows has none
        return False
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
