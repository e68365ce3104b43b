"""What the Cache-Status of a response says, in the words of a failed test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from stream_cached.http.cache_status import NAME, MemberRead
from stream_cached.http.reasons import Finding, NotCached


class HasHeaders(Protocol):
    """A response of a test client: of Starlette, httpx or Django, or any other with headers."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; their names are found in any case."""
        ...


#: What the reason of RFC 9211 for forwarding a request means here, and what to look at.
_FORWARDED = {
    "uri-miss": "nothing was stored under its key. In one test, only the second request for the "
    "same can hit: compare the method, the path, the query, the arguments and the dependencies of "
    "both requests, and see whether the first response was stored: assert_stored(first)",
    "vary-miss": "what is stored was made for other values of the headers in vary= or Vary: send "
    "the same ones in both requests, or pass vary= with a function that makes them alike",
    "stale": "what was stored is no longer fresh: pass a longer ttl=, or travel() less far",
    "request": "the request asked for a new response, by Cache-Control, Pragma or refresh=: leave "
    "that out of the request, or pass honor_request=False",
    "miss": "what is stored may not answer this request, such as one with Authorization, or it "
    "belongs to another function with the same key: give each function a key= of its own",
    "method": f"{NotCached.METHOD.sentence}. Fix: {NotCached.METHOD.fix}",
}


class CacheStatus(MemberRead):
    """The member of this library in the Cache-Status of a response."""

    def explained(self, noted: Iterable[Finding] = ()) -> str:
        """Return what it means, and which line changes it, with what was noted in this test."""
        if self.is_hit:
            return (
                "it was answered from the cache, with what an earlier request of this test has "
                "stored. Fix: ask for something else, or call stream_cache.clear() in between"
            )
        if self.is_collapsed:
            return (
                "it was answered by the run of another request, which had not ended. Fix: wait for "
                "the end of the first response before the second request"
            )
        if self.reasons:
            return _sentences([_found(reason, noted) for reason in self.reasons])
        return _FORWARDED.get(self.forwarded, "the table in docs/reasons.md says more")


def _found(reason: NotCached, noted: Iterable[Finding]) -> Finding:
    """Return the finding with a subject, if one was noted."""
    found = [each for each in noted if each.reason is reason]
    return found[-1] if found else Finding(reason)


def _sentences(findings: Iterable[Finding]) -> str:
    return "; and ".join(f"{each}. Fix: {each.fix or each.reason.fix}" for each in findings)


def no_status(response: Any) -> str:
    """Return what it means that a response has no Cache-Status of this library."""
    code = getattr(response, "status_code", None)
    return (
        f"no Cache-Status of {NAME} (the status is {code}): the function was not called through "
        "the decorator. Fix: write @stream_cached(...) directly over the function, below the route "
        "decorator, and see whether the path leads to this function"
    )


def status_of(response: HasHeaders) -> CacheStatus | None:
    """Return what Cache-Status says; None if this library has not answered."""
    return CacheStatus.read(response.headers.get("Cache-Status") or "")
