"""The table of reasons why a response is not cached, and the texts that report them."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from stream_cached.errors import StreamCachedError

#: Seconds for which a response is remembered that may not be shared. Until then no request for it
#: waits for another one (Varnish's hit-for-miss).
NOT_SHARED_FOR = 120.0

#: Seconds for which no request waits for a run after one whose answer could not be handed on.
NOT_HANDED_ON_FOR = 1.0


class Scope(enum.Enum):
    """What a reason says of other requests for the same."""

    PRIVATE = enum.auto()
    """The answer may not be shared, nor may the next one: no request waits for a run, and readers
    that joined are cut."""
    UNSHARED = enum.auto()
    """This answer can't be handed on. The next one may be another."""
    FAILURE = enum.auto()
    """The answer is not stored, and the requests that waited for it are given it."""
    LIMIT = enum.auto()
    """The body is not stored, nor the next one, but other requests may read it, too."""
    STORE = enum.auto()
    """The store can't hold the body, which may be shared all the same."""
    PASSING = enum.auto()
    """It concerns this run only."""


class NotCached(enum.Enum):
    """
    Why a response was not stored.

    Each reason has a word for Cache-Status, a sentence for the log, a fix, and a scope.
    """

    METHOD = (
        "method",
        "its method is not among those that are cached",
        'pass methods=("GET", "POST") if it only asks, and changes nothing: its body is then part '
        "of the key",
    )
    RANGE = (
        "range",
        "ranges are answered by the endpoint, and not by the cache",
        "nothing is wrong",
    )
    UPLOAD = (
        "upload",
        "it uploads a file or a large body",
        "leave such an endpoint without the decorator",
    )
    AUTHORIZATION = (
        "authorization",
        "the request carries Authorization, and the answer may be one user's own",
        "mark the parameter that is the user, as user: Annotated[User, Depends(current_user), "
        "InKey(lambda user: user.id)], so that there are entries for each user; "
        'pass authorized="keyed" if the arguments or the key name the user, authorized="vary" to '
        'keep entries for each credential, or authorized="share" if all users may be given the '
        "same; or let the response say Cache-Control: public",
    )
    ARGUMENT = (
        "argument",
        "an argument can't be part of the key, so that nothing tells two calls apart",
        "pass key_args= with a function that returns the part of the argument on which the answer "
        "depends; if the answer does not depend on the argument, mark it NotInKey or pass "
        "key_ignore=; or pass key_builder=",
    )
    CONTEXT = (
        "context-variable",
        "a context variable is set on which the answer may depend, and it is no part of the key",
        "pass key_context= with the variables on which the answer depends, or key_context=() if it "
        "depends on none",
    )
    APPLICATION = (
        "application",
        "several applications of this process have the function, and it has no name in a module by "
        "which to tell them apart",
        "make each application a global of a module (app = create_app()), or pass namespace= to "
        "the decorator: a text of its own for each application, or one for all that give the same "
        "answers",
    )
    CLOSURE = (
        "closure",
        "the function is decorated more than once, or while a request is answered, and holds a "
        "value that can't be part of the key",
        "decorate it once, with that value as an argument, or as a global of a module; or pass "
        "namespace= with a text of its own for each",
    )
    READ = (
        "request-read",
        "the endpoint read something from its request that is not part of the key, and may be one "
        "client's own",
        "let a dependency read it, so that the endpoint has it as an argument, or pass "
        "unguarded= if it does not show in the answer",
        Scope.PRIVATE,
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
        Scope.FAILURE,
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
    NO_FRESHNESS = (
        "freshness",
        "the response does not say that it is fresh for any time",
        "let it send Cache-Control: max-age=60, or pass ttl= with a number of seconds instead of "
        '"response"',
    )
    KEPT_OUT = (
        "kept-out",
        "bypass() was called for the response",
        "nothing is wrong",
        Scope.UNSHARED,
    )
    CONDITIONAL = (
        "conditional",
        "it answers a condition or a range of its own request",
        "nothing is wrong",
        Scope.UNSHARED,
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
        Scope.UNSHARED,
    )
    RESPONSE = (
        "response",
        "the function set a status or headers on the Response that it was given",
        "return a Response with them",
        Scope.UNSHARED,
    )
    ITERATOR = (
        "iterator",
        "the function returned an iterator, which can be read only once",
        "return a StreamingResponse over it",
        Scope.UNSHARED,
    )
    VALUE = (
        "value",
        "the function returned an object that can't be copied, so that the next caller would be "
        "given the same one",
        "return plain data (a dict, a dataclass, a model), or pass serializer=",
        Scope.UNSHARED,
    )
    ITEM = (
        "item",
        "the generator yielded an item that can't be stored",
        "yield plain data (text, bytes, numbers, dates, lists, dicts), or name the class of the "
        "items in the annotation: -> AsyncIterator[Item], for a dataclass or a model",
    )
    SKIPPED = (
        "skip-cache-func",
        "skip_cache_func says so",
        "nothing is wrong",
        Scope.UNSHARED,
    )
    FUNCTION = (
        "function",
        "a function that the decorator was given failed",
        "look at its traceback, which the logger has at DEBUG",
        Scope.UNSHARED,
    )
    SWITCHED_OFF = (
        "switched-off",
        "the call or the environment (AIOCACHE_DISABLE) switched the cache off",
        "nothing is wrong",
    )
    MESSAGE = (
        "asgi-message",
        "the response sends trailers, or another ASGI message beside its head and its body, which "
        "only its own client can be given",
        "leave such an endpoint without the decorator, or let it send its head and its body alone",
        Scope.UNSHARED,
    )
    BODY_SIZE = (
        "max-body",
        "the body is larger than max_body=, or than a quarter of the store",
        "raise max_body= (and the max_bytes= of a memory store, or of a directory of bodies)",
        Scope.LIMIT,
    )
    DURATION = (
        "max-duration",
        "the stream took longer than max_duration=",
        "raise max_duration=",
        Scope.LIMIT,
    )
    CONTENT_LENGTH = (
        "content-length",
        "the body is not as long as its own Content-Length says",
        "fix the endpoint: its clients get a broken response",
        Scope.PASSING,
    )
    STORE = (
        "store",
        "the store failed or did not answer in time",
        "look at the store; the endpoint goes on answering without it",
        Scope.STORE,
    )
    INCOMPLETE = (
        "incomplete",
        "the stream raised, or was given up before its end",
        "look at what it raised",
        Scope.PASSING,
    )
    UNFINISHED = (
        "unfinished",
        "the stream ended, and complete_when= says that it is not complete",
        "look at what makes the stream; if such an end is none too early, change complete_when=",
        Scope.PASSING,
    )
    OVERTAKEN = ("overtaken", "it was invalidated while it ran", "nothing is wrong", Scope.PASSING)
    BEHIND = (
        "behind",
        "the store could not keep up with the stream",
        "raise max_pending=, or live_window= for large bodies elsewhere, or use a quicker store",
        Scope.STORE,
    )

    def __init__(self, word: str, sentence: str, fix: str, scope: Scope = Scope.PRIVATE) -> None:
        self.word = word
        self.sentence = sentence
        self.fix = fix
        self.scope = scope

    @classmethod
    def limit(cls, word: str) -> NotCached | None:
        """Return the limit that a word in a record stands for; None if it is no limit."""
        return next((each for each in cls if each.word == word and each.is_limit), None)

    @property
    def is_limit(self) -> bool:
        return self.scope is Scope.LIMIT

    @property
    def is_lasting(self) -> bool:
        """Whether a run that was recorded in vain would be so again."""
        return self.scope in (Scope.PRIVATE, Scope.LIMIT)

    @property
    def alone_for(self) -> float:
        """Seconds for which no request for the same waits for another one."""
        match self.scope:
            case Scope.PRIVATE:
                return NOT_SHARED_FOR
            case Scope.UNSHARED:
                return NOT_HANDED_ON_FOR
            case _:
                return 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why a response is not cached."""

    reason: NotCached
    subject: str = ""
    """The name of the argument, header or attribute; never its value."""
    fix: str = ""
    """A fix for this case; empty for the reason's general fix."""

    def __str__(self) -> str:
        subject = f" ({self.subject})" if self.subject else ""
        return f"{self.reason.sentence}{subject}"


class BypassError(StreamCachedError):
    """
    A call can't be cached.

    Args:
        findings: The reasons.
    """

    def __init__(self, *findings: Finding) -> None:
        super().__init__(explained(findings))
        self.findings = findings

    @property
    def reasons(self) -> tuple[NotCached, ...]:
        """Why the call can't be cached."""
        return tuple(finding.reason for finding in self.findings)


def explained(findings: Iterable[Finding]) -> str:
    """Return the reasons why a response is not cached, and their fixes."""
    findings = list(findings)
    why = "; and ".join(map(str, findings))
    fixes = list(dict.fromkeys(finding.fix or finding.reason.fix for finding in findings))
    if len(fixes) == 1:
        return f"{why}. Fix: {fixes[0]}."
    lines = "".join(f"\n  Fix {number}: {fix}." for number, fix in enumerate(fixes, 1))
    return f"{why}. Each of these fixes is needed:{lines}"


def told_once(reads: Iterable[str]) -> list[str]:
    """Return reads without those of single headers where the headers as a whole were read."""
    names = [*reads]
    return [name for name in names if not ("headers" in names and name.startswith("header."))]


def listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def words(findings: Iterable[Finding]) -> str:
    return ", ".join(dict.fromkeys(finding.reason.word for finding in findings))
