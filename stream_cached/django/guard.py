"""What a view reads of its request that is not part of the key."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from django.http import HttpRequest

from stream_cached.django.observed import attributes_of, observe, release
from stream_cached.django.requests import METHOD
from stream_cached.django.rest import follows_from_view
from stream_cached.django.surroundings import KEYED
from stream_cached.http.reasons import Finding, NotCached, listed, told_once
from stream_cached.request.guard import Terms

#: The call that is answered in this context: what is read here from now on, middleware reads.
_outside: ContextVar[object] = ContextVar("stream_cached_outside", default=None)


def leave(call: object) -> None:
    """Take what is read in this context from now on for what middleware reads."""
    _outside.set(call)


#: What Django and REST Framework keep on a request for themselves.
_INTERNAL = frozenset(
    {
        *("_body", "_closable_objects", "_content_type", "_data", "_default_negotiator"),
        *("_dont_enforce_csrf_checks", "_encoding", "_files", "_full_data", "_handler_class"),
        *("_post", "_post_parse_error", "_read_started", "_request", "_stream"),
        "_supports_param_name",
    }
)

_TEXTS = {
    "auth": "request.auth",
    "body": "the body",
    "client": "the client's address",
    "cookies": "the cookies",
    "csrf": "the CSRF token",
    "headers": "the headers as a whole",
    "host": "the host",
    "messages": "messages for its client",
    "method": "the method",
    "query": "the query as it is",
    "session": "the session",
    "user": "request.user",
}


#: Reads that select among the responses of one key, and by what they do.
_SELECTING = {"method": METHOD}
_WITHOUT_BODY = {f"header.{name}": name for name in ("content-length", "content-type")}


class ViewGuard:
    """
    Observes the request of one run, until `end`.

    Args:
        request: The request, of Django or of Django REST Framework.
        terms: What may be read of it.
        query: The names of its query that are part of the key; None for all.
        in_key: Its attributes whose values are part of the key.
        call: What stands for the call that is answered.
        with_body: Whether its body is part of the key, with the length and the type of it.
    """

    def __init__(
        self,
        request: Any,
        terms: Terms,
        query: frozenset[str] | None,
        in_key: frozenset[str],
        call: object,
        *,
        with_body: bool,
    ) -> None:
        self._request = request
        self._selects = _SELECTING if with_body else {**_SELECTING, **_WITHOUT_BODY}
        self._terms = terms
        self._query = query
        self._in_key = in_key
        self._selecting: frozenset[str] = frozenset()
        self._read: dict[str, None] = {}
        self._call = call
        # Only what was there before the run counts. The view may read back its own attributes.
        self._attributes = dict(attributes_of(request))
        self._messages = self._count_messages()
        self._is_over = False
        observe(request, self)

    def end(self) -> None:
        """Observe no more: the view has returned, and nothing is left of its stream."""
        if not self._is_over:
            self._is_over = True
            release(self._request, self)

    @property
    def is_outside(self) -> bool:
        return _outside.get() is self._call

    @property
    def watches_query(self) -> bool:
        return self._query is not None

    def note(self, name: str) -> None:
        self._read[name] = None

    def attribute(self, name: str, request: Any) -> None:
        if name not in self._attributes or _is_internal(name):
            return
        if isinstance(request, HttpRequest):
            is_keyed = name in self._in_key
        else:
            is_keyed = follows_from_view(request, name)
        if not is_keyed:
            self._read[f"request.{name}"] = None

    def lacks(self, name: str) -> None:
        # Where another request has one of these, the key says so.
        if name[0] != "_" and name not in KEYED:
            self._read[f"request.{name}"] = None

    def selecting(self) -> frozenset[str]:
        """Return by what the response is selected, once the view has returned.

        GET and HEAD share entries, unless the view asks which of them it is. Clients may send a
        type without a body."""
        names = self._selects.keys() & self._read.keys()
        self._selecting = frozenset(self._selects[name] for name in names)
        return self._selecting

    @property
    def reads(self) -> int:
        if self._count_messages() > self._messages:
            # The next client would be shown none.
            self._read["messages"] = None
        return len(self._read)

    def let_go(self) -> None:
        """Do nothing: it is in no cycle."""

    def _count_messages(self) -> int:
        """Return how many messages wait for the client of the request."""
        return len(getattr(self._attributes.get("_messages"), "_queued_messages", ()))

    def findings(self, known: frozenset[str]) -> list[Finding]:
        """Return the reads outside the key; `known` are lower-cased exempt headers."""
        names = [*self._read] if self.reads else []
        unkeyed = told_once(name for name in names if not self._is_keyed(name, known))
        if not unkeyed:
            return []
        return [Finding(NotCached.READ, listed(map(_shown, unkeyed)), _fix(unkeyed))]

    def _is_keyed(self, name: str, known: frozenset[str]) -> bool:
        if name == "body" or (self._query is None and name == "query"):
            return True
        if name.startswith("query."):
            return self._query is None or name.removeprefix("query.") in self._query
        if name in self._selects and self._selects[name] in self._selecting:
            return True
        unguarded = self._terms.unguarded
        if name in unguarded or (name == "host" and self._terms.host):
            return True
        if name.startswith("header.") and "headers" in unguarded:
            return True
        header = {"cookies": "cookie", "session": "cookie"}.get(name, name.removeprefix("header."))
        is_header = header != name
        # The length of a body, and its type, go with the body.
        is_of_body = name in _WITHOUT_BODY and name not in self._selects
        return is_of_body or (is_header and (header in self._terms.headers or header in known))


def _shown(name: str) -> str:
    if name.startswith("header."):
        return f"the header {name.removeprefix('header.')}"
    if name.startswith("query."):
        return f"{name.removeprefix('query.')} in the query"
    return _TEXTS.get(name, name)


def _fix(unkeyed: Sequence[str]) -> str:
    """Return the code that adds the reads to the key, or that exempts them."""
    headers = [name.removeprefix("header.") for name in unkeyed if name.startswith("header.")]
    users = [name for name in unkeyed if name in ("auth", "user")]
    queries = [name for name in unkeyed if name == "query" or name.startswith("query.")]
    apart = {"csrf", "messages", "method", *users, *queries}
    others = [n for n in unkeyed if n not in apart and not n.startswith("header.")]
    ways = []
    if headers:
        ways.append(f"pass vary={_tuple(headers)}")
    if users:
        ways.append("pass per_user=True, so that there is an entry for each user")
    if others:
        ways.append(
            'put what the answer depends on into the key, as in key_args={"request": lambda '
            f"request: ...}}, and pass unguarded={_tuple(others)}"
        )
    if queries:
        ways.append("let query= name all that is read of the query, or leave it out")
    if "csrf" in unkeyed:
        ways.append(
            "leave the CSRF token, which is one client's own, out of what is cached: let a script "
            "read it from the cookie, or leave the decorator off"
        )
    if "method" in unkeyed:
        ways.append("let the view read request.method before it returns its stream")
    if "messages" in unkeyed:
        ways.append("leave messages to pages that are not cached, and to middleware")
    exempt = [n for n in unkeyed if n not in ("csrf", "messages", "method") and n not in queries]
    either = ""
    if exempt and not others:
        words = [name.removeprefix("header.") for name in exempt]
        either = f"; or pass unguarded={_tuple(words)}, if none of it shows in the answer"
    return listed(ways) + either


def _tuple(names: Sequence[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"({quoted},)" if len(names) == 1 else f"({quoted})"


def _is_internal(name: str) -> bool:
    """Whether an attribute is none that middleware of a project has set."""
    return name in _INTERNAL or name.startswith("_stream_cached")
