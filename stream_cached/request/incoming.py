"""One request, as the cache sees it: whether the cache serves it, and what its key is made of."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import UploadFile
from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection, Request

from stream_cached.endpoint.dependencies import is_beside
from stream_cached.endpoint.startup import own_names
from stream_cached.events import Reporter
from stream_cached.http.conditions import CONDITIONS
from stream_cached.http.headers import header_values
from stream_cached.http.qvalues import accepts_coding
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.http.vary import selecting_value
from stream_cached.http.wishes import NO_WISHES, Wishes, wishes_of
from stream_cached.keys.canonical import NoCanonicalFormError, canonical
from stream_cached.keys.digest import digest
from stream_cached.keys.request import request_key
from stream_cached.request.disconnect import DetachedReceive, DisconnectShield
from stream_cached.request.guard import RUNS
from stream_cached.request.observed import observer_of, plain_scope
from stream_cached.request.peek import peek
from stream_cached.request.received import is_read_here

#: What normalises the headers of `vary=`, by their lower-cased names.
Normalisers = Mapping[bytes, Callable[[str], str] | None]

#: The values of these headers, as they are part of the key.
Selected = Mapping[bytes, bytes | list[bytes]]

_NONE: list[bytes] = []

#: The headers that say what a request wants of a cache.
_OF_WISHES = frozenset({b"cache-control", b"pragma"})

#: The headers that decide how a request is answered, beside what its key is made of.
DECIDING = (
    CONDITIONS
    | _OF_WISHES
    | {b"authorization", b"content-length", b"content-type", b"transfer-encoding"}
)


class Incoming:
    """A request that reached the decorator.

    `vary` has the lower-cased headers of `vary=`, each with the function that normalises its
    value; `BypassError` is raised if a function fails. `ignored` matches the names in the query
    that are left out of the key. `lines` are its headers, if it is known that each has one line and
    a lower-cased name; `selected` are the values of those in `vary`, if they are known."""

    is_authorized = False
    """Whether it carries Authorization, so that the answer may be one user's own."""
    status: int | None = None
    """The status that dependencies have set for its response."""
    left_out: frozenset[str] = frozenset()
    """What is part of the key by arguments only: words of the guard's `INPUTS`."""
    _body: str | None = None
    _declared: frozenset[str] | None = None
    _is_beside = False

    def __init__(
        self,
        request: HTTPConnection,
        vary: Normalisers,
        refresh: Callable[[Any], bool] | None = None,
        ignored: re.Pattern[str] | None = None,
        lines: Mapping[bytes, bytes] | None = None,
        selected: Selected | None = None,
    ) -> None:
        self.request, self._refresh, self._ignored = request, refresh, ignored
        scope = request.scope
        self.scope = scope = scope if type(scope) is dict else plain_scope(scope)
        self.is_head = scope["type"] == "http" and scope["method"] == "HEAD"
        """Whether it is a HEAD request, for which GET's entries are used."""
        self._has_lists = False
        if lines is None:
            # Not every server or test sends them, and ASGI has this default.
            headers = scope.setdefault("headers", [])
            # Hardly any request has two lines of one header. ASGI wants lower-cased names, but not
            # every middleware complies.
            lines = dict(headers)
            self._has_lists = len(lines) < len(headers) or not b"".join(lines).islower()
        self._lines = lines
        self._is_plain = not self._has_lists and DECIDING.isdisjoint(lines)
        self._selected = selected_by(vary, self._values) if selected is None else selected
        # If another cached endpoint calls this one, its answer depends on the parts of this key.
        self._observer = None if type(request) is Request else observer_of(request)
        if self._observer is not None:
            self._note(name.decode("latin-1") for name in self._selected)

    def _note(self, names: Iterable[str]) -> None:
        if self._observer is not None:
            for name in names:
                self._observer.note_header(name)

    def _values(self, name: bytes) -> list[bytes]:
        if self._has_lists:
            return header_values(self.scope["headers"], name)
        line = self._lines.get(name)
        return _NONE if line is None else [line]

    def check(self, methods: frozenset[str], keyed: Set[str]) -> None:
        """
        Note whether it is authorized. Raise `BypassError` unless it may be answered from the cache.

        The `keyed` headers tell its user from another one, or need not.
        """
        method = "GET" if self.is_head else self.scope.get("method", "WEBSOCKET")
        if method not in methods:
            fix = "leave the decorator off" if method == "WEBSOCKET" else ""
            raise BypassError(Finding(NotCached.METHOD, method, fix))
        if self._is_plain:
            return
        self.is_authorized = "authorization" not in keyed and bool(self._values(b"authorization"))
        kinds = self._values(b"content-type")
        if kinds and b"".join(kinds).lower().startswith(b"multipart/form-data"):
            raise BypassError(Finding(NotCached.UPLOAD))

    @property
    def is_plain_get(self) -> bool:
        """Whether it is a GET without a body that says nothing of how it is to be answered."""
        return self._is_plain and self.scope["method"] == "GET" and self._body is None

    def refreshes(self, reporter: Reporter) -> bool:
        """Whether it asks for a new run, and `refresh=` lets it."""
        return self._refresh is not None and self._is_let("refresh=", self._refresh, reporter)

    def _is_let(self, name: str, function: Callable[[Any], Any], reporter: Reporter) -> bool:
        try:
            return bool(function(self.request))
        # A user's function that fails must not fail the request.
        except Exception as exc:
            reporter.function_failed(exc)
            reporter.warn(f"{name} raised {type(exc).__name__}, which counts as False")
            return False

    @property
    def is_of_another_call(self) -> bool:
        """Whether another cached endpoint has passed it on, whose answer is made of this one."""
        return self._is_beside or self._observer is not None or RUNS in self.scope

    def look_around(self, function: Callable[..., Any]) -> None:
        """See whether a dependency of another cached endpoint has passed it to a function."""
        self._is_beside = not self._is_plain and is_beside(function, self.scope)

    @property
    def is_conditional(self) -> bool:
        """Whether it has a precondition, or asks for a part of the response."""
        return not (self._is_plain or self.is_of_another_call) and self._has_any(CONDITIONS)

    def _has_any(self, names: Set[bytes]) -> bool:
        if self._has_lists:
            return any(name.lower() in names for name, _ in self.scope["headers"])
        return not names.isdisjoint(self._lines)

    @property
    def accepts_coding(self) -> bool:
        """Whether it accepts another content coding than identity."""
        lines = self._values(b"accept-encoding")
        return bool(lines) and accepts_coding(lines)

    def wishes(self, honour: bool | Callable[[Any], bool], reporter: Reporter) -> Wishes:
        """Return what it wants of a cache; `honour` says what of that counts."""
        if self._is_plain or not self._has_any(_OF_WISHES):
            return NO_WISHES
        lines, pragma = self._values(b"cache-control"), self._values(b"pragma")
        if callable(honour):
            honour = self._is_let("honor_request=", honour, reporter)
        wishes = wishes_of(lines, pragma, is_honoured=honour)
        return wishes.of_another_call() if self.is_of_another_call else wishes

    @property
    def may_have_body(self) -> bool:
        """Whether there may be a body; in HTTP/2 it need not be announced."""
        if self.scope["method"] not in ("GET", "HEAD"):
            return True
        if not self._is_plain:
            length = self._values(b"content-length")
            if length or self._values(b"transfer-encoding"):
                return length != [b"0"] or bool(self._values(b"transfer-encoding"))
        return not self.scope.get("http_version", "1.1").startswith("1.")

    async def read_body(self) -> None:
        """Make the body part of the key; raise `BypassError` if it is gone or uploaded."""
        request = self.request
        if not isinstance(request, Request):
            raise BypassError(Finding(NotCached.UPLOAD))
        form = getattr(request, "_form", None)
        if form is not None:
            # The framework has parsed the form, and the body itself is gone.
            items = form.multi_items()
            if any(isinstance(value, UploadFile) for _, value in items):
                raise BypassError(Finding(NotCached.UPLOAD))
            self._body = digest([[name, value] for name, value in items])
            return
        if hasattr(request, "_body"):
            body = request._body
        elif getattr(request, "_stream_consumed", False):
            raise BypassError(Finding(NotCached.UPLOAD))
        else:
            body = await peek(request)
        if not body and self.scope["method"] in ("GET", "HEAD"):
            return
        read_as = [self._values(b"content-type"), self._values(b"content-encoding")]
        self._body = digest([read_as, hashlib.blake2b(body, digest_size=16).digest()])

    @property
    def has_body(self) -> bool:
        """Whether its body is part of the key, as bytes or as arguments."""
        return self._body is not None

    def leave_out_body(self) -> None:
        """Leave its bytes out of the key, which has the arguments that FastAPI has made of it."""
        # Not None, so that it differs from a request without a body.
        self._body = "arguments"
        self.left_out |= {"body"}

    def leave_out_query(self, declared: frozenset[str]) -> None:
        """Leave the query out of the key, but for these names."""
        self._declared = declared
        self.left_out |= {"query"}

    @property
    def may_leave_out_body(self) -> bool:
        """Whether nothing has read its body but FastAPI."""
        return self.has_body and is_read_here(self.request)

    def key(self, endpoint: str, arguments: Mapping[str, Any], *, host: bool) -> str:
        scope = self.scope
        if self._observer is not None and self._declared is None:
            self._observer.note("query")
        if self.status is not None:
            arguments = {**arguments, " status": self.status}
        return request_key(
            endpoint,
            method="GET" if self.is_head else scope["method"],
            scheme=scope.get("scheme", "http"),
            host=self._host() if host else (),
            # A middleware may rewrite one of the three and leave the others.
            path=(scope.get("raw_path") or b"", scope["path"], *_mounts(scope)),
            parameters=self._path_parameters(),
            state=own_names(scope),
            query=scope.get("query_string", b""),
            ignored=self._ignored,
            declared=self._declared,
            body=self._body,
            arguments=arguments,
            headers=self._selected,
        )

    def _host(self) -> Sequence[bytes]:
        self._note(["host"])
        return self._values(b"host") or [repr(self.scope.get("server")).encode()]

    def _path_parameters(self) -> list[tuple[str, Any]]:
        """Return the path parameters, which the host may give, and a dependency may change."""
        forms = []
        for name, value in sorted(self.scope.get("path_params", {}).items()):
            try:
                forms.append((name, canonical(value)))
            except NoCanonicalFormError as exc:
                fix = "let what puts it there put a str or a number there"
                raise BypassError(
                    Finding(NotCached.ARGUMENT, f"the path parameter {name}: {exc}", fix)
                ) from exc
        return forms

    def select(self, names: Sequence[str]) -> str:
        """Return the digest of the request's values for the named headers."""
        self._note(names)
        return digest([[name, self._value(name)] for name in names])

    def _value(self, name: str) -> bytes | list[bytes] | str | None:
        header = name.encode("latin-1")
        if header in self._selected:
            return self._selected[header]
        return selecting_value(name, self._values(header))

    @property
    def can_be_detached(self) -> bool:
        """Whether a run that outlives the request finds all that it may read of it."""
        return self.has_body or not self.may_have_body

    def detach(self) -> None:
        """Let a run that outlives the request read the request's body, and see no disconnect."""
        if isinstance(self.request, Request):
            kept = self.request._receive if self.has_body else None
            self.request._receive = DetachedReceive(kept)

    @contextmanager
    def shielded(self, instance: object, patience: float) -> Iterator[DisconnectShield]:
        """Hide the client's disconnect from all code that reads this request.

        `instance`, the object of a method, may be an `HTTPEndpoint` with a `receive` of its own.
        The shield is lifted at the end of the block unless a run has taken it over."""
        shield = DisconnectShield(
            patience,
            may_have_body=self.may_have_body,
            body_is_read=getattr(self.request, "_stream_consumed", False),
        )
        if isinstance(self.request, Request):
            shield.receive = self.request._receive
            self.request._receive = shield
            if isinstance(instance, HTTPEndpoint):
                instance.receive = shield
        try:
            yield shield
        finally:
            if not shield.has_run:
                shield.reveal()
                if isinstance(instance, HTTPEndpoint):
                    # The endpoint sends its answer with its scope, which a guard has replaced.
                    instance.scope = self.scope


def selected_by(vary: Normalisers, values_of: Callable[[bytes], list[bytes]]) -> Selected:
    """Return the headers in a key; raise `BypassError` if a function fails."""
    return {
        name: _normalised(name, normalise, values_of(name)) if normalise else values_of(name)
        for name, normalise in vary.items()
    }


def _normalised(header: bytes, normalise: Callable[[str], str], values: Sequence[bytes]) -> bytes:
    """Return the normalised value of a header; raise `BypassError` if the function fails."""
    name = header.decode("latin-1")
    try:
        value = normalise(b", ".join(values).decode("latin-1"))
    # A user's function that fails must not fail the request.
    except Exception as exc:
        raise BypassError(Finding(NotCached.NORMALISER, f"{name}: {type(exc).__name__}")) from exc
    if not isinstance(value, str):
        raise BypassError(Finding(NotCached.NORMALISER, f"{name}: {type(value).__name__}"))
    return value.encode("utf-8", "surrogatepass")


def _mounts(scope: Mapping[str, Any]) -> Sequence[str]:
    """Return the path of the mount, and that of the application, of which URLs are made."""
    paths: list[str] = [scope.get("root_path", "")]
    return [*paths, scope["app_root_path"]] if "app_root_path" in scope else paths
