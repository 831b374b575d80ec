"""An exception at each place where a signal handler's can come: what a campaign of Ctrl-C meets by luck."""

from __future__ import annotations

import dis
import linecache
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

#: After which instructions CPython, 3.11 to 3.13, looks whether a signal has come.
_LOOKS = frozenset({"CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME"})


class Interruption(BaseException):
    """What the signal handler raises."""


def interruptions(work: Callable[[], Any], *, within: str = "/zarrstream/") -> Iterator[BaseException | None]:
    """Yield one interruption after the other, each at the next place in our code where a signal can be noticed.

    Parameters
    ----------
    work : callable
        What is interrupted. It is called anew each time: the consumer prepares what it needs before it asks for the
        next one.
    within : str, optional
        A part of the names of the files where exceptions come.

    Yields
    ------
    BaseException or None
        What ``work`` raised; None, and that is the end, when it has come to its end without an interruption.

    Notes
    -----
    Not within finalizers, from which nothing is raised, and not as ``os.open`` returns: the number of the descriptor
    is lost then, which no program can help and which locks nothing.
    """
    place = 0
    while True:
        place += 1
        raised = _interrupted(work, place, within)
        yield raised
        if raised is None:
            return


def _interrupted(work: Callable[[], Any], place: int, within: str) -> BaseException | None:
    passed = 0
    before: dict[FrameType, str] = {}

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal passed
        if event == "call":
            if within not in frame.f_code.co_filename or _in_finalizer(frame):
                return None
            frame.f_trace_opcodes = True
        elif event == "opcode":
            last, before[frame] = before.get(frame), _instructions(frame.f_code)[frame.f_lasti]
            if last in _LOOKS and "os.open(" not in linecache.getline(frame.f_code.co_filename, frame.f_lineno or 0):
                passed += 1
                if passed == place:
                    raise Interruption(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        return trace

    found = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except Interruption as error:
        return error
    except BaseException as error:
        if passed >= place:
            return error
        raise
    finally:
        sys.settrace(found)
        before.clear()
    assert passed < place, "the interruption was swallowed"
    return None


def _in_finalizer(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name in {"__del__", "_publish_all"} or frame.f_code.co_filename.endswith("weakref.py"):
            return True
        frame = frame.f_back
    return False


@cache
def _instructions(code: CodeType) -> dict[int, str]:
    return {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}
