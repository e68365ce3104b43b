"""A stale entry (RFC 5861): it is served while a new one is made, or where that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from stream_cached.connections.deadline import Deadline
from stream_cached.endpoint.dependencies import needs_request
from stream_cached.engine.collapse import Collapsing, Opened
from stream_cached.engine.record import Engine, Stale
from stream_cached.entries.resource import Hit
from stream_cached.errors import StoreError
from stream_cached.events import Reporter
from stream_cached.http.policy import is_failure
from stream_cached.options import Options
from stream_cached.request.incoming import Incoming
from stream_cached.responses.live import LiveResponse
from stream_cached.runs.registry import Turn, within
from stream_cached.tasks import spawn

#: Runs the endpoint for a turn, and records what it answers; the last argument says whether nobody
#: is sent that.
RunIt = Callable[[Opened, Turn | None, bool], Awaitable[Any]]


class Revalidation:
    """
    One call that has found a stale entry.

    Args:
        engine: That of the function.
        options: Its options.
        notices: Its notices.
        incoming: The request.
        run: Runs the function.
    """

    def __init__(
        self,
        engine: Engine,
        options: Options,
        reporter: Reporter,
        incoming: Incoming | None,
        run: RunIt,
    ) -> None:
        self._engine = engine
        self._options = options
        self._reporter = reporter
        self._incoming = incoming
        self._run = run

    # -- while it is made anew --------------------------------------------------------------

    async def serve(
        self, opened: Opened, stale: Stale, collapsing: Collapsing | None
    ) -> Response | None:
        """
        Return the stale response, where it may be served by now, and let a new one be made.

        Args:
            opened: What was found.
            stale: The stale entry in it.
            collapsing: The call among others; None where it is not to run for them.

        Raises:
            StoreError: The store failed.
        """
        if stale.seconds > self._options.stale_while_revalidate:
            return None
        with opened.use.deadline:
            response = await self._engine.stale(
                opened.resource, stale, is_fallback=opened.use.backend.is_fallback
            )
        if response is None or collapsing is None or not opened.records or opened.rests:
            return response
        if opened.use.backend.flights.is_left_to_others(opened.resource.place):
            return response
        # One answer that could not be shared need not be the last one.
        turn, own = opened.approach(shared=True)
        if turn is not None and own:
            carries = self._is_carried()
            # It is not part of the request.
            with Deadline(None):
                refresh = spawn(self._make_anew(opened, stale, collapsing, turn))
            if carries:
                response.carries = refresh
        return response

    def _is_carried(self) -> bool:
        """Whether a new response is made within the request, since it needs what belongs to it."""
        incoming = self._incoming
        if incoming is None:
            return False
        if not incoming.can_be_detached or needs_request(incoming.scope):
            return True
        incoming.detach()
        return False

    async def _make_anew(
        self, opened: Opened, stale: Stale, collapsing: Collapsing, turn: Turn
    ) -> None:
        flights, place = opened.use.backend.flights, opened.resource.place
        try:
            async with asyncio.timeout(self._options.limits.max_duration), within(turn):
                if not await collapsing.take_unless_taken(turn, opened):
                    flights.leave_to_others(place)
                    turn.end()
                    return
                await _to_its_end(await self._run(opened, turn, True))
        # Whatever it is, nobody waits for it.
        except Exception as exc:
            self._reporter.failed_to_renew(exc)
        if not await self._is_new(opened, stale):
            flights.rest(place)

    async def _is_new(self, opened: Opened, stale: Stale) -> bool:
        try:
            found = await opened.resource.look_up()
        except StoreError:
            return False
        return isinstance(found, Hit) and found.entry.generation != stale.hit.entry.generation

    # -- where the endpoint fails -----------------------------------------------------------

    async def run(self, opened: Opened, stale: Stale, turn: Turn | None) -> Any:
        """
        Run the function; where that fails before its first byte, return the stale response.

        Args:
            opened: What was found.
            stale: The stale entry in it.
            turn: What others wait for.

        Raises:
            Exception: What the function raised, where the stale response may not be served.
        """
        if stale.seconds > self._options.stale_if_error:
            async with within(turn):
                return await self._run(opened, turn, False)
        if opened.rests and (response := await self._instead(opened, stale, None)):
            if turn is not None:
                turn.end()
                await turn.released()
            return response
        result: Any = None
        failure: Exception | None = None
        status: int | None = None
        try:
            async with within(turn):
                result = await self._run_or_rest(opened, turn)
            if not await self._has_failed(result):
                return result
            status = None if isinstance(result, LiveResponse) else result.status_code
        except HTTPException as exc:
            if not is_failure(exc.status_code):
                raise
            failure, status = exc, exc.status_code
        except Exception as exc:
            failure = exc
        response = await self._instead(opened, stale, status)
        if response is not None:
            self._reporter.failed_to_renew(failure or status)
            await _discard(result)
            return response
        if failure is not None:
            raise failure
        return result

    async def _run_or_rest(self, opened: Opened, turn: Turn | None) -> Any:
        try:
            return await self._run(opened, turn, False)
        except Exception as exc:
            if not isinstance(exc, HTTPException) or is_failure(exc.status_code):
                # Before those who wait look again.
                opened.use.backend.flights.rest(opened.resource.place)
            raise

    async def _has_failed(self, result: Any) -> bool:
        """Whether an answer is a failure, as far as its first byte tells."""
        if isinstance(result, LiveResponse) and await result.fails_at_once():
            return True
        if not isinstance(result, Response):
            return False
        return is_failure(result.status_code) and result.status_code not in self._options.statuses

    async def _instead(self, opened: Opened, stale: Stale, status: int | None) -> Response | None:
        try:
            with opened.use.deadline:
                return await self._engine.stale(
                    opened.resource,
                    stale,
                    is_fallback=opened.use.backend.is_fallback,
                    failed=True,
                    status=status,
                )
        except StoreError:
            return None


async def _to_its_end(result: Any) -> None:
    """Let a response come to its end that nobody is sent."""
    if isinstance(result, LiveResponse):
        await result.run_unsent()
    else:
        await _discard(result)
    if isinstance(result, Response) and result.background is not None:
        await result.background()


async def _discard(result: Any) -> None:
    """Close a response that is not sent."""
    if isinstance(result, LiveResponse):
        await result.discard()
    elif isinstance(result, StreamingResponse) and hasattr(result.body_iterator, "aclose"):
        await result.body_iterator.aclose()
