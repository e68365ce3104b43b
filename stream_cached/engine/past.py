"""The function runs past the cache: its answer is not stored, and says so."""

from __future__ import annotations

from typing import Any

from stream_cached.endpoint.signatures import bare_function
from stream_cached.engine.decisions import Bypass
from stream_cached.engine.outcome import Call
from stream_cached.engine.sharing import of_one_client
from stream_cached.events import Answered, Outcome, bypassed
from stream_cached.http.reasons import Finding, NotCached
from stream_cached.responses.produced import Produced, produced
from stream_cached.responses.stored import as_error, bare_response


async def bypass(call: Call, decision: Bypass) -> Any:
    """Run the function of a call that is not for the cache, and say all that forbids it."""
    by_argument = any(finding.reason is NotCached.ARGUMENT for finding in decision.findings)
    more: list[Finding] = []
    if not by_argument:
        result = await call.execution.run()
    else:
        # The arguments are in the warning already: say at once what else forbids it.
        executed = await call.execution.run_watched(release=True)
        result = executed.result
        made = produced(result)
        more = of_one_client(call, () if made is None else made.headers, call.execution.guard)
    findings = (*decision.findings, *more)
    call.service.reporter.not_cached(*findings)
    return pass_on(call, result, bypassed(findings))


def pass_on(call: Call, result: Any, event: Answered) -> Any:
    """Return a result that is not stored, with its Cache-Status."""
    made = result if isinstance(result, Produced) else produced(result)
    body = None if made is None else made.body
    call.sent(event, None if body is None else len(body))
    if made is not None:
        return made.with_headers(call.headers(made.headers, event, made.replaces))
    if call.rendering is not None:
        call.rendering.add(event.header)
    return result


def unsatisfied(call: Call) -> Any:
    """
    Return the answer to a request that wants a stored response only (RFC 9111, 5.2.1.7).

    Raises:
        HTTPException: It is the answer. What has called the function wants a value, perhaps.
    """
    event = Answered(Outcome.BYPASS, detail="only-if-cached")
    response = bare_response(504, call.headers((), event, None), call.sending(event))
    if _is_passed_on(call):
        raise as_error(response)
    return response


def _is_passed_on(call: Call) -> bool:
    """Whether what Starlette or FastAPI has called for a request is another function."""
    execution = call.execution
    scope = {} if execution.incoming is None else execution.incoming.scope
    endpoint = bare_function(scope.get("endpoint"))
    is_own = getattr(endpoint, "__wrapped__", None) is execution.function
    # Without the handlers, nothing makes a response of an exception.
    return "starlette.exception_handlers" in scope and not is_own
