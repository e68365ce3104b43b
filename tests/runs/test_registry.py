"""Each event loop has runs of its own, also where several threads have one."""

from __future__ import annotations

import asyncio
import sys
import threading
from types import FrameType
from typing import Any

from stream_cached.backends.binding import RunScope
from stream_cached.runs import registry
from stream_cached.runs.registry import RunRegistry, registry_of


def _own_and_others(interrupted_at: int) -> tuple[set[RunRegistry], set[RunRegistry]]:
    """
    Look for the runs of a loop, while another thread looks for its own at one of the steps.

    Return what both have found. The other one has found nothing if there are fewer steps.
    """
    scope, own, others, steps = RunScope(), set[RunRegistry](), set[RunRegistry](), 0

    async def look_elsewhere() -> None:
        others.add(registry_of(scope))

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != registry.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps += 1
            if steps == interrupted_at:
                thread = threading.Thread(target=asyncio.run, args=(look_elsewhere(),))
                thread.start()
                thread.join()
        return trace

    async def look() -> None:
        own.add(registry_of(scope))
        before = sys.gettrace()
        # Python 3.12 looks only here whether any frame asks for it.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(trace)
        try:
            own.add(registry_of(scope))
        finally:
            sys.settrace(before)
        own.add(registry_of(scope))

    asyncio.run(look())
    return own, others


def test_no_loop_is_given_the_runs_of_another_thread() -> None:
    for step in range(1, 1000):
        own, others = _own_and_others(step)
        assert len(own) == 1
        if not others:
            break
        assert own.isdisjoint(others)
    assert step > 10
