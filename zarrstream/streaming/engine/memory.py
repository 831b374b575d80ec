"""What malloc keeps between one chunk and the next, so that chunks do not come with new pages each time.

glibc gives what is freed back to the system above a threshold, 128 KiB at first, and the pages of each chunk are then
faulted in anew: a sixth of the time of an uncompressed chunk of 256 KiB (``python -m tests.benchmarks.memory``). It
raises that threshold by itself, to 64 MiB at most, when a large block is freed that was mapped alone (mallopt(3),
``M_MMAP_THRESHOLD``).
"""

from __future__ import annotations

import numpy as np

_MOST = 31 << 20  # bytes: glibc learns from blocks of less than 32 MiB, its own header included
_kept = 0


def keep(nbytes: int) -> None:
    """Free a block that was never touched, so that malloc keeps about twice as much for this process.

    Parameters
    ----------
    nbytes : int
        What a stream may hold at once.
    """
    global _kept  # noqa: PLW0603  # malloc's state is the process's, too
    nbytes = min(nbytes, _MOST)
    if nbytes > _kept:
        _kept = nbytes
        np.empty(nbytes, "u1")
