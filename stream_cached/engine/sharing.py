"""May an answer be given to the other requests that want the same, and to which of them?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from typing import Any, TypeVar

from stream_cached.engine.copies import why_not_copied
from stream_cached.engine.outcome import Call, View
from stream_cached.entries.resource import Resource
from stream_cached.http.headers import vary_names
from stream_cached.http.policy import is_public, may_be_shared, why_not_shared
from stream_cached.http.reasons import NOT_HANDED_ON_FOR, BypassError, Finding, NotCached, Scope
from stream_cached.keys.variants import ANY, Variant, variant_of
from stream_cached.request.disconnect import DisconnectShield
from stream_cached.request.execution import Executed
from stream_cached.request.guard import Observation
from stream_cached.responses.items import ItemsResponse
from stream_cached.responses.messages import RawHeaders
from stream_cached.responses.produced import error_headers, is_disconnect
from stream_cached.responses.told import is_kept_out
from stream_cached.runs.run import Run

T = TypeVar("T")


def not_wanted(call: Call, view: View, result: Any) -> list[Finding]:
    """Return why the user does not want a result to be stored."""
    hooks = call.service.hooks
    if is_kept_out(result) or (call.rendering is not None and call.rendering.is_kept_out):
        return [Finding(NotCached.KEPT_OUT)]
    # Any other result, as a dictionary, may have an attribute of that name.
    returned = result.items if isinstance(result, ItemsResponse) else result
    try:
        is_wanted = hooks.accepts(call, view.resource, returned)
    # A user's function that fails must not fail the request.
    except Exception as exc:
        call.service.reporter.function_failed(exc)
        return [Finding(NotCached.FUNCTION, f"{hooks.deciding} raised {type(exc).__name__}")]
    return _tag(call, view, result) if is_wanted else [Finding(NotCached.SKIPPED)]


def _tag(call: Call, view: View, result: Any) -> list[Finding]:
    """Give an answer the tags that only the answer has; return why it is not stored."""
    if call.tags_of is None:
        return []
    try:
        view.resource.set_tags(call.tags_of(result))
    except BypassError as exc:
        if exc.__cause__ is not None:
            call.service.reporter.function_failed(exc.__cause__)
        return list(exc.findings)
    return []


def of_one_client(call: Call, headers: RawHeaders, guard: Observation | None) -> list[Finding]:
    """Return why an answer may be one client's own."""
    findings: list[Finding] = []
    if call.is_authorized and not _may_be_shared(call, headers):
        findings.append(Finding(NotCached.AUTHORIZATION))
    # Most endpoints read nothing that is not in the key.
    if guard is not None and guard.reads and not is_for_all(call, headers):
        known = vary_names(headers)
        findings.extend(guard.findings(known | {"authorization"} if findings else known))
    return findings


def _may_be_shared(call: Call, headers: RawHeaders) -> bool:
    age = None if call.service.hooks.by_response else 0.0
    return may_be_shared(headers, age, call.service.options.targets)


def is_for_all(call: Call, headers: RawHeaders) -> bool:
    """Whether a response says that all may have it, and its word counts."""
    return call.service.hooks.by_response and is_public(headers, call.service.options.targets)


def why_no_value(call: Call, view: View, executed: Executed) -> list[Finding]:
    """Return why a result that is no response is not stored as a plain value."""
    if isinstance(executed.result, Iterator | AsyncIterator):
        return [Finding(NotCached.ITERATOR)]
    findings = of_one_client(call, (), call.execution.guard)
    if call.service.hooks.by_response:
        findings.append(Finding(NotCached.NO_FRESHNESS))
    if executed.changed_head:
        findings.append(Finding(NotCached.RESPONSE))
    if call.service.hooks.keeps_objects(view.use) and (kind := why_not_copied(executed.result)):
        findings.append(Finding(NotCached.VALUE, kind))
    return findings


def varies_on(call: Call, headers: RawHeaders) -> frozenset[str]:
    """Return the names of the headers that select an answer, beyond its key."""
    return call.service.headers.varies_on(headers, keyed=call.keyed) | call.execution.selecting


def variant_by(resource: Resource, varies_on: frozenset[str]) -> Variant:
    """Return what selects an answer beyond its key, for the request of a resource."""
    if not varies_on and not resource.names:
        return ANY
    names = {*resource.names, *varies_on}
    return ANY if "*" in names else variant_of(tuple(names), resource.select)


def alone_for(headers: RawHeaders, findings: Sequence[Finding]) -> float:
    """Return the seconds for which no request for the same waits for another one."""
    reasons = {finding.reason for finding in findings} | {why_not_shared(headers)}
    return max((reason.alone_for for reason in reasons if reason is not None), default=0.0)


def are_limits(findings: Sequence[Finding]) -> bool:
    """Whether nothing but limits keeps a body from being stored."""
    return all(finding.reason.is_limit for finding in findings)


def led_late(call: Call, view: View) -> Run | None:
    """Return a run that others may join, for a request that led none while its head was unknown."""
    if not call.is_conditional or not call.collapses:
        return None
    run, is_new = view.lead_or_join()
    if run is None or not is_new:
        return None
    run.began = call.started
    return run


def record_nothing(run: Run, limit: NotCached | None, findings: Sequence[Finding]) -> None:
    """Give the entry up where a limit is known to be passed; others may read the stream."""
    if run.recorder is None:
        return
    if limit is not None:
        # The mark is not renewed: later bodies may be within the limit again.
        run.recorder.fail(limit, known=True)
    elif findings:
        run.recorder.fail(findings[0].reason)


def handed_on(
    headers: RawHeaders, findings: Sequence[Finding], *, at_hand: bool
) -> tuple[float, bool]:
    """
    Return what an answer that is not stored is to the other requests.

    Args:
        headers: Its headers.
        findings: Why it is not stored.
        at_hand: Whether its body is at hand. A generator may read its own client's request.

    Returns:
        The seconds for which no request waits for another one, and whether the requests that waited
        are given the answer: it is not stored only because of its status or size, and may be
        shared.
    """
    seconds = alone_for(headers, findings)
    shared = (Scope.FAILURE, Scope.LIMIT)
    if seconds or any(finding.reason.scope not in shared for finding in findings):
        return seconds, False
    return (0.0, True) if at_hand else (NOT_HANDED_ON_FOR, False)


async def ending_run(
    call: Call, view: View, run: Run | None, shield: DisconnectShield, making: Awaitable[T]
) -> T:
    """Await what an endpoint makes, and end its run if it raises, or can't be rendered."""
    try:
        return await making
    except Exception as exc:
        if run is not None and not shield.has_revealed:
            _fail(call, view, run, exc)
        raise


def _fail(call: Call, view: View, run: Run, error: Exception) -> None:
    """
    End a run whose endpoint has raised.

    The requests that waited for it are given the exception if they would have been given a response
    (singleflight). Otherwise they run the endpoint themselves, side by side.
    """
    headers = error_headers(error)
    findings = of_one_client(call, headers, call.execution.guard)
    names = varies_on(call, headers)
    if call.request is None and names:
        findings.append(Finding(NotCached.NO_REQUEST))
    seconds = alone_for(headers, findings)
    # The disconnect of its own client is no failure of the endpoint.
    is_own = seconds > 0 or is_disconnect(error)
    run.fail(None if is_own else error, variant_by(view.resource, names), seconds)
