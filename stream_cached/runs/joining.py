"""A request joins a run that goes on, in this process or, by its progress, in another one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stream_cached.http.headers import content_length
from stream_cached.runs.answer import Joined

if TYPE_CHECKING:
    from stream_cached.runs.run import Run


async def join(run: Run, seconds: float, since: float) -> Joined | None:
    """
    Return the answer of a run for one more request; None if there is none for it.

    The first chunk may take so many `seconds`; otherwise `TimeoutError` is raised. `since` is the
    begin of the request, by the monotonic clock.
    """
    if run.hands_on_refusal and run.answer is not None:
        return Joined(run, run.answer, None)
    if not run.is_listed:
        return None
    # The run of a process that was killed looks as if it went on.
    if run.remote is not None and not await run.remote.shows_life(since, seconds):
        return None
    answer, stream, audience = run.answer, run.stream, run.audience
    if not run.can_be_joined or answer is None:
        return None
    if stream is None or audience is None:
        return Joined(run, answer, None)
    reader = stream.read(content_length(answer.head.headers), joins=True)
    audience.came()
    if reader.is_at_hand:
        return Joined(run, answer, reader)
    begins = False
    try:
        # Until there is a chunk, the stream may turn out to be for its own client only.
        async with asyncio.timeout(seconds):
            begins = await reader.begun()
    finally:
        if not begins:
            reader.close()
    if not begins and run.can_be_joined:
        # The first chunks are lost: the next requests would find the run, too, and fail again.
        run.retire()
    return Joined(run, answer, reader) if begins else None
