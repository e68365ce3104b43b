"""The way of one request, from top to bottom: decide first, then perform.

Most hits of the decorator do not come here: `at_hand` answers a plain request from an entry that
this process keeps, where that is what the whole way would do.
"""

from __future__ import annotations

import functools
from typing import Any, assert_never

from stream_cached.engine.after_event import after_event
from stream_cached.engine.collapse import Collapse
from stream_cached.engine.confirm import confirmed
from stream_cached.engine.decisions import (
    Bypass,
    Decision,
    Lead,
    LeadOrStale,
    PassOn,
    Raise,
    Serve,
)
from stream_cached.engine.lookup import first_look
from stream_cached.engine.outcome import Absent, Call, Fresh, PlainValue, Stale, View
from stream_cached.engine.past import bypass, pass_on, unsatisfied
from stream_cached.engine.record import record
from stream_cached.engine.stale import lead_or_serve_stale, serve_stale
from stream_cached.entries.found import Unstorable
from stream_cached.errors import StoreError
from stream_cached.events import Answered, Outcome
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.runs.registry import Leading


async def answer(call: Call) -> Any:
    """Answer one call. Nothing that the endpoint raises is taken for an error of the store."""
    # First what comes most often.
    match await decide(call):
        case Lead(view, run):
            async with Leading(run):
                return await record(call, view, run)
        case Serve(result):
            if call.service.options.resume == "event-id":
                return after_event(call, result, functools.partial(_answer_again, call))
            return result
        case Raise(error, traceback):
            # Each `raise` adds to the traceback: a hundred requests raise this one.
            raise error.with_traceback(traceback)
        case Bypass() | PassOn() if call.wishes.only_if_cached:
            return unsatisfied(call)
        case Bypass() as decision:
            return await bypass(call, decision)
        case PassOn(event):
            return pass_on(call, await call.execution.run(), event)
        case LeadOrStale() as decision:
            return await lead_or_serve_stale(call, decision)
        case never:
            assert_never(never)


async def decide(call: Call) -> Decision:
    """Decide how a call is answered. The endpoint never runs here."""
    try:
        call.check()
        looked = await first_look(call)
        if isinstance(looked, Fresh):
            return Serve(looked.response)
        view, collapse = looked, None
        while True:
            match view.found:
                case (Stale() | Absent()) as old:
                    # Most often there is nothing.
                    has_entry = old.hit is not None
                    if has_entry and (response := await _without_run(call, view)) is not None:
                        return Serve(response)
                case Fresh(result) | PlainValue(result):
                    return Serve(result)
                case Unstorable(detail):
                    return PassOn(Answered(Outcome.BYPASS, fwd="miss", detail=detail))
                case never:
                    assert_never(never)
            collapse = collapse or Collapse(call, functools.partial(_answer_again, call))
            step = await collapse.step(view)
            if not isinstance(step, View):
                return step
            view = step
    except BypassError as exc:
        return Bypass(exc.findings)
    except StoreError as exc:
        call.service.reporter.store_failed(exc, "reading")
        return Bypass((Finding(NotCached.STORE),))


async def _without_run(call: Call, view: View) -> Any:
    """Return the response of an entry that is not fresh, but may be served; None if it may not."""
    if isinstance(view.found, Stale):
        response = await serve_stale(call, view, view.found)
        if response is not None:
            return response
    return await confirmed(call, view)


async def _answer_again(call: Call) -> Any:
    return await answer(call.once_more())
