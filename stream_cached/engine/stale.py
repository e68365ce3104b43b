"""Stale entries (RFC 5861): served while a new one is made, or if the endpoint fails."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from stream_cached.connections.deadline import Deadline
from stream_cached.engine.collapse import refresh_is_needed
from stream_cached.engine.confirm import confirm
from stream_cached.engine.decisions import LeadOrStale
from stream_cached.engine.lookup import detail_of, respond
from stream_cached.engine.outcome import Call, Stale, View
from stream_cached.engine.record import record
from stream_cached.entries.found import Hit
from stream_cached.errors import StoreError
from stream_cached.events import Answered, Outcome
from stream_cached.http.policy import is_failure
from stream_cached.request.injected import TasksOfRun
from stream_cached.responses.live import LiveResponse
from stream_cached.responses.produced import discard, error_status, finish, produced
from stream_cached.responses.stored import Carrying
from stream_cached.runs.registry import Leading
from stream_cached.runs.run import Run
from stream_cached.streams.ends import Failed
from stream_cached.tasks import spawn

#: Seconds for which a call waits for its refresh, once its client has everything.
_CARRIED_FOR = 1.0

# -- stale-while-revalidate ---------------------------------------------------------------------


async def serve_stale(call: Call, view: View, stale: Stale) -> Any:
    """
    Return the stale response if it may be served, and start a refresh; otherwise None.

    Raises:
        StoreError: The store failed.
    """
    if stale.seconds > stale.windows.while_revalidate:
        return None
    ttl = -math.ceil(stale.seconds)
    event = Answered(Outcome.STALE, ttl=ttl, detail=detail_of(view.use.backend))
    with view.use.deadline:
        response = await respond(call, lambda: view.resource, stale.hit, event)
    if response is None or not call.collapses or not view.records or view.is_backing_off:
        return response
    if view.registry.is_left_to_others(view.resource.place):
        return response
    # One response that could not be shared need not be the last one.
    run, is_new = view.lead_or_join(again=True)
    if run is not None and is_new:
        is_held = call.is_held
        if not is_held:
            call.execution.outlive_request()
        tasks = call.execution.tasks_of_run()
        # The refresh is not part of the request.
        with Deadline(None):
            refresh = spawn(_refresh(call, view, stale, run, response, tasks))
        # A session that a middleware opened is closed when the call returns, and nobody knows of
        # it: the call waits for a quick refresh in any case.
        is_carried = is_held or tasks.are_possible
        response.carry(refresh, None if is_carried else _CARRIED_FOR)
    return response


async def _refresh(
    call: Call, view: View, stale: Stale, run: Run, response: Carrying, tasks: TasksOfRun
) -> None:
    registry, place = view.registry, view.resource.place
    failed = False
    try:
        max_duration = call.service.options.limits.max_duration
        async with asyncio.timeout(max_duration), Leading(run):
            if not await refresh_is_needed(run, view):
                registry.leave_to_others(place)
                run.withdraw()
                return
            if await confirm(call, view) is not None:
                run.withdraw()
                return
            # No client is sent its answer.
            unreported, _ = call.withholding()
            result = await record(unreported, view, run, is_refresh=True)
            await finish(result, call.service.reporter)
    except (KeyboardInterrupt, SystemExit):
        raise
    # No request waits for a refresh, whatever it raises.
    except BaseException as exc:
        if _is_being_cancelled():
            raise
        call.service.reporter.refresh_failed(exc)
        failed = True
    failed = failed or isinstance(run.end, Failed)
    if failed:
        tasks.forget()
    if response.has_returned and failed:
        # The next refresh finds what this one missed: its call is held open.
        call.service.request_bound.note_failure()
        registry.try_again(place)
    elif await _is_replaced(view, stale):
        registry.try_again(place)
    else:
        registry.back_off(place)


def _is_being_cancelled() -> bool:
    """Whether somebody cancels this task, and not only what it has waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _is_replaced(view: View, stale: Stale) -> bool:
    try:
        found = await view.resource.look_up()
    except StoreError:
        return False
    return isinstance(found, Hit) and found.entry.generation != stale.hit.entry.generation


# -- stale-if-error -----------------------------------------------------------------------------


async def lead_or_serve_stale(call: Call, decision: LeadOrStale) -> Any:
    """Run the function. If it fails before its first byte, return the stale response."""
    view, stale, run = decision.view, decision.stale, decision.run
    covers_failures = stale.covers_failures
    if not covers_failures and stale.seconds > stale.windows.if_raised:
        async with Leading(run):
            return await record(call, view, run)
    if (
        covers_failures
        and view.is_backing_off
        and (response := await _instead(call, view, stale, None))
    ):
        if run is not None:
            await run.close()
        return response
    # One of two answers is sent, and only that one is reported.
    withholding, withheld = call.withholding()
    tasks = call.execution.tasks_of_run()
    result: Any = None
    failure: Exception | None = None
    status: int | None = None
    try:
        async with Leading(run):
            recorded = _record_or_back_off if covers_failures else record
            result = await recorded(withholding, view, run)
        if not await _has_failed(call, result, covers_failures):
            withheld.release()
            return result
        made = produced(result)
        status = None if made is None or isinstance(result, LiveResponse) else made.status
    except Exception as exc:
        failure, status = exc, error_status(exc)
        if status is not None and not is_failure(status):
            raise
    response = await _instead(call, view, stale, status)
    if response is not None:
        if status is None or failure is not None:
            tasks.forget()
        call.service.reporter.refresh_failed(failure or status)
        await discard(result, call.service.reporter)
        return response
    if failure is not None:
        raise failure
    withheld.release()
    return result


async def _record_or_back_off(call: Call, view: View, run: Run | None) -> Any:
    try:
        return await record(call, view, run)
    except Exception as exc:
        status = error_status(exc)
        if status is None or is_failure(status):
            # Before the requests that wait look again.
            view.registry.back_off(view.resource.place)
        raise


async def _has_failed(call: Call, result: Any, covers_failures: bool) -> bool:
    """Whether an answer breaks off at once, or is a failure that a stale response replaces."""
    if isinstance(result, LiveResponse) and await result.fails_at_once():
        return True
    made = produced(result)
    if made is None or not covers_failures:
        return False
    return is_failure(made.status) and made.status not in call.service.options.statuses


async def _instead(call: Call, view: View, stale: Stale, status: int | None) -> Any:
    """Return the stale response for a call whose run has failed; None if there is none."""
    event = Answered(Outcome.STALE, fwd="stale", fwd_status=status, detail="stale-if-error")
    try:
        with view.use.deadline:
            return await respond(call, lambda: view.resource, stale.hit, event)
    except StoreError:
        return None
