"""What two answers of one URL come to: whether it streams, whether it hits, and why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stream_cached.command.asking import Answer
from stream_cached.command.said import Said
from stream_cached.http.cache_status import NAME, MemberRead
from stream_cached.http.reasons import Finding, NotCached

#: Seconds without a byte of the body from which something may be holding it back.
_LONG = 0.2

#: Seconds within which all pieces came at once.
_AT_ONCE = 0.02

#: How much of the time that it took to begin a body may take and have come at once all the same.
_SHARE = 0.05

#: What it means that a request was not answered from the cache, without a reason.
_FORWARDED = {
    "uri-miss": (
        "nothing was found under its key",
        "look for what differs from request to request (doctor shows the key), use one store for "
        "all workers instead of memory://, and look into the log of the logger stream_cached",
    ),
    "vary-miss": (
        "what is stored was made for other values of the headers in vary= or Vary",
        "pass vary= with a function that makes the values alike",
    ),
    "stale": ("what was stored is no longer fresh", "pass a longer ttl="),
    "request": (
        "the request asked for a new response, by Cache-Control, Pragma or refresh=",
        "leave that out of the request, or pass honor_request=False",
    ),
    "miss": (
        "what is stored may not answer this request, such as one with Authorization, or says that "
        "the last response could not be stored",
        "ask without Authorization to compare, and look into the log of the logger stream_cached",
    ),
}


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a URL."""

    streams: bool | None
    """None where it could not be seen."""
    hits: bool | None
    findings: tuple[Said, ...]
    notes: tuple[Said, ...]


def verdict(first: Answer, second: Answer | None) -> Verdict:
    """Return what is to be said; the second answer is left out where the first has no end."""
    findings: list[Said] = []
    notes: list[Said] = []
    if first.cut:
        findings.append(_cut(first))
    if first.status >= 300:
        findings.append(_status(first))
        return Verdict(None, None, tuple(findings), ())
    streams = _streams(first, findings, notes)
    hits = None if second is None else _hits(first, second, findings, notes)
    return Verdict(streams, hits, tuple(dict.fromkeys(findings)), tuple(notes))


def member_of(answer: Answer) -> MemberRead | None:
    """Return what the cache has said of an answer."""
    return MemberRead.read(answer.headers.get("cache-status", ""))


# -- streaming ------------------------------------------------------------------------------------


def _streams(first: Answer, findings: list[Said], notes: list[Said]) -> bool | None:
    member = member_of(first)
    if member is not None and member.is_hit:
        notes.append(
            Said(
                "hit-at-once",
                "the first answer is a hit already, which is sent at once: whether it streams "
                "can't be seen",
                "ask again once its ttl is over, or with another query",
            )
        )
        return None
    if "content-length" in first.headers:
        findings.append(_with_length())
        return False
    if not first.pieces and not first.cut:
        notes.append(Said("empty", "the body is empty: there is nothing to stream", ""))
        return None
    spread = first.last - first.first_byte
    if first.pieces > 1 and spread >= _AT_ONCE and spread >= first.first_byte * _SHARE:
        return True
    if first.first_byte >= _LONG and not first.cut:
        findings.append(_held_back(first))
        return False
    if not first.cut:
        notes.append(
            Said(
                "quick",
                f"the whole body was there after {first.last * 1000:.0f} ms: too quick to see "
                "whether anything holds it back",
                "",
            )
        )
    return None


def _with_length() -> Said:
    return Said(
        "length",
        "it does not stream: the first answer has a Content-Length, so that the whole body was "
        "there before its first byte was sent",
        "return a StreamingResponse, or yield; or find what collects its body: a proxy that "
        "buffers, or middleware that reads it or compresses it as a whole. A FileResponse has a "
        "length, too, and is fine",
    )


def _held_back(first: Answer) -> Said:
    text = (
        f"it does not stream: nothing of the body came for {first.first_byte:.1f} s, and then all "
        "of it at once"
    )
    return Said("held-back", text, f"likely causes: {'; '.join(_causes(first))}")


def _causes(first: Answer) -> Iterator[str]:
    """Yield what may hold a body back, the likely first."""
    if first.version == "HTTP/1.0":
        yield "the answer is HTTP/1.0, which has no chunks: proxy_http_version 1.1 in nginx"
    if encoding := first.header("content-encoding"):
        yield (
            f"{encoding} compression collects small chunks: compare with --header "
            "'Accept-Encoding: identity'"
        )
    if first.headers.get("x-accel-buffering", "").strip().lower() != "no":
        yield (
            "a proxy that buffers: proxy_buffering off in nginx, or the header X-Accel-Buffering: "
            "no on the response"
        )
    yield "middleware that collects the body before it sends anything"
    yield "the endpoint itself has its first row only when it has all (a sort, a list, a query)"
    yield "ask the server itself to tell the proxy from the application"


# -- hits -----------------------------------------------------------------------------------------


def _hits(first: Answer, second: Answer, findings: list[Said], notes: list[Said]) -> bool:
    member = member_of(second)
    if member is None:
        findings.append(_no_member(second))
        return False
    if not member.is_hit:
        # What has broken is not stored, which was said.
        findings += () if first.cut else _not_hit(first, member)
        return False
    if second.cut:
        findings.append(_cut(second))
    elif not first.cut and first.digest != second.digest:
        findings.append(
            Said(
                "bytes",
                f"the hit has other bytes than the first answer ({first.size:,} and "
                f"{second.size:,})",
                "look for middleware or a proxy that changes bodies; or the entry was replaced in "
                "between: ask again",
            )
        )
    if "fallback" in str(member.parameters.get("detail", "")).split(", "):
        notes.append(
            Said("fallback", "the store is away, and memory takes its place", "look at the store")
        )
    return True


def _no_member(answer: Answer) -> Said:
    return Said(
        "no-cache-status",
        f"it was not cached: the answer has no Cache-Status of {NAME} (its status is "
        f"{answer.status})",
        "write @stream_cached(...) directly over the function, below the route decorator, and see "
        "whether the path leads to this function; or something in front takes the header out",
    )


def _not_hit(first: Answer, member: MemberRead) -> Iterator[Said]:
    before = member_of(first)
    reasons = member.reasons or (before.reasons if before is not None else ())
    if reasons:
        yield from (Said.of(Finding(reason)) for reason in reasons)
    elif member.is_collapsed:
        yield Said(
            "collapsed",
            "the second answer is that of a run which another request has started, and which had "
            "not ended",
            "ask again",
        )
    elif member.forwarded in _FORWARDED:
        yield Said(member.forwarded, *_FORWARDED[member.forwarded])
    else:
        yield Said("no-hit", "the second answer is no hit", "see Cache-Status above")


# -- answers that are not as they should be -------------------------------------------------------


def _cut(answer: Answer) -> Said:
    if answer.cut == "broken":
        return Said(
            "broken",
            f"the connection broke after {answer.size:,} bytes, before the end of the body",
            "look into the log of the server, and at time-outs of a proxy",
        )
    bound = "--timeout" if answer.cut == "time" else "--max-bytes"
    return Said(
        "endless",
        f"the body had not ended when {bound} was reached ({answer.size:,} bytes, "
        f"{answer.seconds:.1f} s): what never ends is never stored",
        f"raise {bound} if it does end; leave endless streams without the decorator",
    )


def _status(answer: Answer) -> Said:
    if answer.status < 400:
        return Said("redirect", f"the status is {answer.status}", "ask the URL that it leads to")
    if answer.status in (401, 403):
        fix = "pass what the server wants to know, as --header 'Authorization: ...'"
        return Said(NotCached.STATUS.word, f"the status is {answer.status}", fix)
    return Said(
        NotCached.STATUS.word, f"the status is {answer.status}", "ask for something that is there"
    )
