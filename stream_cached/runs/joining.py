"""A request joins a run that goes on, in this process or, by its progress, in another one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stream_cached.runs.answer import Joined
from stream_cached.runs.states import JOINABLE, RunState

if TYPE_CHECKING:
    from stream_cached.runs.run import Run
    from stream_cached.streams.stream import Stream


class BeginGoneError(TimeoutError):
    """The begin of a run that goes on can't be read before its object is whole."""


async def join(run: Run, seconds: float, since: float, *, at_once: bool) -> Joined | None:
    """
    Return the answer of a run for one more request; None if there is none for it.

    Args:
        run: The run.
        seconds: How long the first chunk may take; past it `TimeoutError` is raised, and
            `BeginGoneError` where nothing but the object holds that chunk.
        since: The begin of the request, by the monotonic clock.
        at_once: Whether the request may be answered before the first chunk, because it can run the
            endpoint itself if that chunk is not for it.
    """
    await run.line_to_join.wait()
    if run.hands_on_refusal and run.answer is not None:
        return Joined(run, run.answer, None)
    if not run.is_listed:
        return None
    # The run of a process that was killed looks as if it went on.
    if run.remote is not None and not await run.remote.shows_life(since, seconds):
        return None
    answer, stream, audience = run.answer, run.stream, run.audience
    if not run.can_be_joined or answer is None:
        if run.state is RunState.OUTGROWN:
            # Memory no longer holds the beginning.
            run.retire()
        elif stream is not None and stream.is_kept and run.state in JOINABLE:
            await _until_stored(run, stream, seconds)
        return None
    if stream is None or audience is None:
        return Joined(run, answer, None)
    reader = stream.read(run.declared, joins=True)
    audience.came()
    until = asyncio.get_running_loop().time() + seconds
    joined = Joined(run, answer, reader, until)
    # A stale entry answers if the run fails before its first chunk.
    if reader.is_at_hand or (at_once and answer.stale_place is None):
        return joined
    try:
        return joined if await begins(joined) else None
    except BaseException:
        reader.close()
        raise


async def _until_stored(run: Run, stream: Stream, seconds: float) -> None:
    """Wait for the whole body: nothing else holds the beginning."""
    # The source need not wait for the clients that it has.
    run.waited_for()
    stream.wake_source()
    try:
        await run.left(seconds)
    except TimeoutError:
        raise BeginGoneError from None


async def begins(joined: Joined) -> bool:
    """
    Wait for the first chunk, or a clean end. Return False if the request gets none.

    Until there is a chunk, the stream may turn out to be for its own client only. `TimeoutError` is
    raised if it takes too long.
    """
    run, reader = joined.run, joined.reader
    if reader is None or reader.has_first:
        return True
    try:
        async with asyncio.timeout_at(joined.until):
            is_there = await reader.begun()
    except TimeoutError:
        reader.close()
        raise
    # Not if the wait is cancelled: the loop over the body may wait once more.
    if not is_there:
        reader.close()
    if not is_there and run.can_be_joined:
        # The first chunks are lost: the next requests would find the run, too, and fail again.
        run.retire()
    return is_there
