"""May a response be stored, and if not, why not. Plain values in, decisions out.

RFC 9110 and RFC 9111 are the sources; where this cache is stricter than a shared cache has to be,
a comment says so.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stream_cached.exceptions import StreamCachedError

#: Responses that are stored unless `statuses=` says otherwise: those of RFC 9110, section 15.1,
#: less the ones that stand for a part of another (206) or for a passing fault (405, 414, 501).
DEFAULT_STATUSES = frozenset({200, 203, 204, 300, 301, 308, 404, 410})

#: Statuses that are never stored: parts of another response, which can't stand alone.
NEVER_STORED = frozenset({206, 304})


#: A directive of Cache-Control. What does not keep to the grammar (a semicolon for a comma, quotes
#: round a name) is still taken for what it looks like, so that `private; max-age=60` is private.
_DIRECTIVE = re.compile(
    r'(?P<name>[a-z0-9!#$%&\'*+.^_`|~-]+)\s*(?:=\s*(?P<argument>"[^"]*"|[^\s,;"]*))?'
)

#: A number of seconds or bytes; a longer one is none, and Python refuses to read it.
_DIGITS = re.compile(r"[0-9]{1,19}")


class NotCached(enum.Enum):
    """Why a response was not stored: a word for Cache-Status, a sentence, and the mend."""

    METHOD = (
        "method",
        "its method is not among those that are cached",
        'pass methods=("GET", "POST") if it only asks, and changes nothing: its body is then part '
        "of the key",
    )
    UPLOAD = (
        "upload",
        "it uploads a file or a large body",
        "leave such an endpoint without the decorator",
    )
    AUTHORIZATION = (
        "authorization",
        "the request carries Authorization, and the answer may be one user's own",
        'pass authorized="keyed" if the arguments or the key name the user, authorized="vary" to '
        'keep entries for each credential, or authorized="share" if all users may be given the '
        "same; or let the response say Cache-Control: public",
    )
    ARGUMENT = (
        "argument",
        "an argument can't be part of the key, so that nothing tells two calls apart",
        "pass key_args= with functions that return what of them the answer depends on; where they "
        "are only tools, and any other one would give the same answer, mark them NotInKey or pass "
        "key_ignore=; or pass key_builder=",
    )
    READ = (
        "request-read",
        "the endpoint read something from its request that is not part of the key, and may be one "
        "client's own",
        "let a dependency read it, so that the endpoint has it as an argument, or pass "
        "unguarded= if it does not show in the answer",
    )
    NORMALISER = (
        "vary",
        "a function of vary= did not return a str",
        "let it return a str for any value, also for the empty one of an absent header",
    )
    STATUS = (
        "status",
        "its status is not among those that are stored",
        "pass statuses= if it may be stored",
    )
    SET_COOKIE = (
        "set-cookie",
        "the response sets a cookie, which is one client's own",
        "set the cookie in a middleware, or in another endpoint",
    )
    CACHE_CONTROL = (
        "cache-control",
        "the response's Cache-Control says private or no-store",
        "let the endpoint send another Cache-Control if the response may be shared",
    )
    VARY_ANY = (
        "vary-any",
        "the response varies on *, that is on more than its request",
        "name the headers in Vary",
    )
    NO_REQUEST = (
        "no-request",
        "no request reached the decorator, and the response can't be stored without one",
        "call the endpoint with its Request",
    )
    RESPONSE = (
        "response",
        "the function set a status or headers on the Response that it was given",
        "return a Response with them",
    )
    ITERATOR = (
        "iterator",
        "the function returned an iterator, which can be read only once",
        "return a StreamingResponse over it",
    )
    SKIPPED = (
        "skip-cache-func",
        "skip_cache_func says so",
        "nothing is wrong",
    )
    SWITCHED_OFF = (
        "switched-off",
        "the call or the environment (AIOCACHE_DISABLE) switched the cache off",
        "nothing is wrong",
    )
    BODY_SIZE = (
        "max-body",
        "the body is larger than max_body=, or than a quarter of the store",
        "raise max_body= (and the max_bytes= of a memory store)",
    )
    DURATION = (
        "max-duration",
        "the stream took longer than max_duration=",
        "raise max_duration=",
    )
    CONTENT_LENGTH = (
        "content-length",
        "the body is not as long as its own Content-Length says",
        "mend the endpoint: its clients get a broken response",
    )
    STORE = (
        "store",
        "the store failed or did not answer in time",
        "look at the store; the endpoint goes on answering without it",
    )
    INCOMPLETE = (
        "incomplete",
        "the stream raised, or was given up before its end",
        "look at what it raised",
    )
    OVERTAKEN = (
        "overtaken",
        "it was invalidated while it ran",
        "nothing is wrong",
    )
    BEHIND = (
        "behind",
        "the store could not keep up with the stream",
        "raise max_pending=, or use a quicker store",
    )

    WAITED = (
        "wait-timeout",
        "another run of it did not begin to answer within wait_timeout=",
        "raise wait_timeout= if the endpoint takes that long before its first byte",
    )

    def __init__(self, word: str, sentence: str, mend: str) -> None:
        self.word = word
        self.sentence = sentence
        self.mend = mend

    @property
    def is_private(self) -> bool:
        """Whether it makes a response one client's own."""
        return self is NotCached.READ

    @property
    def is_limit(self) -> bool:
        """Whether the next run would come to it, too."""
        return self in (NotCached.BODY_SIZE, NotCached.DURATION)

    @property
    def is_of_store(self) -> bool:
        """Whether it is the store's affair, so that a stream may be shared all the same."""
        return self in (NotCached.STORE, NotCached.BEHIND)


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why a response is not cached."""

    reason: NotCached
    subject: str = ""
    """What it was found in; never a value."""
    mend: str = ""
    """What to write, where more can be said than the reason's own."""

    def __str__(self) -> str:
        subject = f" ({self.subject})" if self.subject else ""
        return f"{self.reason.sentence}{subject}"


class BypassError(StreamCachedError):
    """
    A call is not for the cache.

    Args:
        findings: Why.
    """

    def __init__(self, *findings: Finding) -> None:
        super().__init__(explained(findings))
        self.findings = findings

    @property
    def reasons(self) -> tuple[NotCached, ...]:
        """Why, in the words of the log and of Cache-Status."""
        return tuple(finding.reason for finding in self.findings)


def explained(findings: Iterable[Finding]) -> str:
    """Say why a response is not cached, and what to write instead."""
    findings = list(findings)
    why = "; and ".join(map(str, findings))
    mends = list(dict.fromkeys(finding.mend or finding.reason.mend for finding in findings))
    if len(mends) == 1:
        return f"{why}. Mend: {mends[0]}."
    numbered = "; ".join(f"({number}) {mend}" for number, mend in enumerate(mends, 1))
    return f"{why}. Mend, each of them: {numbered}."


def listed(names: Iterable[str]) -> str:
    """Return an enumeration for a sentence."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def words(findings: Iterable[Finding]) -> str:
    """Return the words of some reasons, for Cache-Status."""
    return ", ".join(dict.fromkeys(finding.reason.word for finding in findings))


def list_members(values: Iterable[bytes]) -> list[str]:
    """Split the values of a list header into its members, lower-cased (RFC 9110, section 5.6.1)."""
    members = b",".join(values).decode("latin-1").lower().split(",")
    return [member.strip() for member in members if member.strip()]


def cache_directives(values: Iterable[bytes]) -> dict[str, str]:
    """Return the directives of Cache-Control with their arguments (RFC 9111, section 5.2)."""
    joined = b",".join(values).decode("latin-1").lower()
    directives: dict[str, str] = {}
    for match in _DIRECTIVE.finditer(joined):
        name, argument = match["name"], (match["argument"] or "").strip('"')
        # Of several the one that allows least is the first (RFC 9111, section 4.2.1).
        directives[name] = min(directives.get(name, argument), argument, key=_strictness)
    return directives


def _strictness(argument: str) -> tuple[bool, int]:
    return (True, int(argument)) if _DIGITS.fullmatch(argument) else (False, 0)


def may_be_shared(headers: Iterable[tuple[bytes, bytes]], age: float) -> bool:
    """
    Say whether the answer to a request with Authorization may answer another one.

    It has to say so itself (RFC 9111, section 3.5), and to be fresh by its own words: what it
    wants revalidated could be refused to the other user, and this cache asks nobody.

    Args:
        headers: Those of the response.
        age: Seconds since it was made.
    """
    headers = list(headers)
    directives = cache_directives(v for k, v in headers if k.lower() == b"cache-control")
    named = {k.lower().decode("latin-1"): v.decode("latin-1") for k, v in headers}
    if directives.keys().isdisjoint({"public", "s-maxage", "must-revalidate"}):
        return False
    if not directives.keys().isdisjoint({"private", "no-store", "no-cache"}):
        return False
    lifetime = directives.get("s-maxage", directives.get("max-age"))
    if lifetime is None:
        # Expires would have to be compared with clocks of others.
        return "public" in directives and "expires" not in named
    made = named.get("age", "0")
    if not (_DIGITS.fullmatch(lifetime) and _DIGITS.fullmatch(made)):
        return False
    return age + int(made) < int(lifetime)


def may_be_stale(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """
    Say whether a response may be served once it is stale (RFC 9111, section 4.2.4).

    Args:
        headers: Those of the response.
    """
    directives = cache_directives(v for k, v in headers if k.lower() == b"cache-control")
    forbidding = {"must-revalidate", "proxy-revalidate", "no-cache", "s-maxage"}
    return directives.keys().isdisjoint(forbidding)


def is_failure(status: int) -> bool:
    """Whether a status says that the endpoint has failed (RFC 5861, section 4)."""
    return status in (500, 502, 503, 504)


def why_not_stored(
    status: int, headers: Sequence[tuple[bytes, bytes]], statuses: frozenset[int]
) -> NotCached | None:
    """Say why a response must not be stored, as far as its head can tell; None if it may."""
    if status in NEVER_STORED or status not in statuses:
        return NotCached.STATUS
    names = {name.lower() for name, _ in headers}
    # Stricter than RFC 9111, section 7.3, which leaves Set-Cookie to the origin's directives.
    if b"set-cookie" in names:
        return NotCached.SET_COOKIE
    directives = cache_directives(v for k, v in headers if k.lower() == b"cache-control")
    if not directives.keys().isdisjoint({"private", "no-store"}):
        return NotCached.CACHE_CONTROL
    if "*" in vary_names(headers):
        return NotCached.VARY_ANY
    return None


def vary_names(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[str]:
    """Return the names in the response's Vary, lower-cased."""
    return frozenset(list_members(v for k, v in headers if k.lower() == b"vary"))


def content_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """Return what Content-Length says, None where it is absent or no number."""
    for name, value in headers:
        if name.lower() == b"content-length":
            return int(value) if value.isdigit() and len(value) < 20 else None
    return None


def cache_status(
    *,
    hit: bool = False,
    ttl: int | None = None,
    fwd: str = "",
    fwd_status: int | None = None,
    stored: bool = False,
    collapsed: bool = False,
    detail: str = "",
) -> str:
    """Build this cache's member of Cache-Status (RFC 9211, section 2)."""
    parts = ["stream-cached"]
    if hit:
        parts.append("hit")
    if ttl is not None:
        parts.append(f"ttl={ttl}")
    if fwd:
        parts.append(f"fwd={fwd}")
    if fwd_status is not None:
        parts.append(f"fwd-status={fwd_status}")
    if stored:
        parts.append("stored")
    if collapsed:
        parts.append("collapsed")
    if detail:
        parts.append(f'detail="{detail}"')
    return "; ".join(parts)
