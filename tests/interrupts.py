"""An exception at each place where a signal handler's can come: what a campaign of Ctrl-C meets by luck."""

from __future__ import annotations

import dis
import inspect
import linecache
import sys
from functools import cache
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

#: After which instructions CPython, 3.11 to 3.13, looks whether a signal has come.
_LOOKS = frozenset({"CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME"})
#: The one at which it looks, which it does not always count to the block in which it stands: an exception then passes a
#: `finally` or the exit of a `with` by.
_BACKWARD = "JUMP_BACKWARD"


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
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno or 0)
            if (last in _LOOKS or before[frame] == _BACKWARD) and "os.open(" not in line:
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


def uncovered_loops(code: CodeType) -> Iterator[str]:
    """Yield where a loop goes round from a condition within a block, and CPython takes the jump for outside of it.

    An exception of a signal handler that comes there passes by what the block gives back: the exit of a `with`, a
    `finally`, an `except`. The remedy is a function of its own for the loop: what comes out of a call is covered.
    """
    entries: Any = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]  # typeshed does not have it

    found = _instructions(code)

    def covered(offset: int) -> bool:
        target = next((entry.target for entry in entries if entry.start <= offset < entry.end), None)
        # A comprehension's own handler gives back nothing but its variable; what is around it may.
        return target is not None and (found[target] == "PUSH_EXC_INFO" or covered(target))

    # All of a generator is covered, by what turns its StopIteration into an error: nothing can be told of one.
    before = ""
    for jump in dis.get_instructions(code) if not code.co_flags & inspect.CO_GENERATOR else ():
        # The way out of an `await` into which somebody has thrown goes back, too, in 3.12, and is no loop.
        is_loop, before = jump.opname == _BACKWARD and before != "CLEANUP_THROW", jump.opname
        if is_loop and covered(jump.argval) and not covered(jump.offset):
            yield f"{code.co_qualname}, line {jump.positions.lineno if jump.positions else '?'}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from uncovered_loops(constant)


@cache
def _instructions(code: CodeType) -> dict[int, str]:
    return {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}
