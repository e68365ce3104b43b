"""The request headers of one cached function: those in its key, and those that select."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stream_cached.endpoint.contexts import variables_listed
from stream_cached.endpoint.taken import Keyed
from stream_cached.http.headers import vary_names, with_vary
from stream_cached.options import Options, Vary
from stream_cached.request.guard import Terms

RawHeaders = Iterable[tuple[bytes, bytes]]


def keyed_of(options: Options) -> Keyed:
    """Return what of a request is part of the key, whatever the function's parameters are."""
    as_they_are = (name.lower() for name, normalise in options.vary.items() if normalise is None)
    headers, listed = frozenset(as_they_are), options.key_context
    says_none = listed is not None and not listed
    context = None if says_none else frozenset(variables_listed(listed or ()))
    return Keyed(options.request_key, options.key_host, headers, context=context)


class HeaderRules:
    """
    Which headers are part of the key, and which ones select a response.

    Args:
        options: The options of the decorator.
        taken: The headers that arguments in the key are taken from.
        verbatim: Those of them that an argument holds as they are.
        vary: What counts instead of the option `vary`.
    """

    def __init__(
        self,
        options: Options,
        taken: frozenset[str],
        verbatim: frozenset[str],
        *,
        vary: Vary | None = None,
    ) -> None:
        own = options.vary if vary is None else vary
        # An argument may be one line of its header, converted: the key has the lines, too. But a
        # Cookie() parameter puts one cookie into the key, not the header.
        vary = {**dict.fromkeys(verbatim - {"Cookie"}), **own}
        self.normalisers: dict[bytes, Callable[[str], str] | None] = {
            name.lower().encode("latin-1"): function for name, function in vary.items()
        }
        self._declared = frozenset(map(str.lower, own))
        self._adds_to_vary = tuple(sorted({*own, *taken}, key=str.lower))
        self._parameters = frozenset(map(str.lower, taken))
        self._keyed = frozenset(map(str.lower, vary))
        # The headers that tell users apart, or need not.
        excused = {"authorization"} if options.authorized in ("keyed", "share") else set()
        self._identifying = {True: self._keyed | excused, False: self._declared | excused}
        # The normalised value of a language is what the endpoint wants; that of cookies or
        # credentials is only a part of what they say.
        normalised = {name.lower() for name, function in own.items() if function}
        readable = self._keyed - (normalised & {"cookie", "authorization"})
        self.terms = Terms(readable, options.key_host, options.unguarded)

    def identifying(self, *, keyed: bool) -> frozenset[str]:
        """Return the headers that tell the user of a request from another one, or need not."""
        return self._identifying[keyed]

    def varies_on(self, headers: RawHeaders, *, keyed: bool) -> frozenset[str]:
        """Return the names of the headers that select a response, beyond its key."""
        if keyed:
            return vary_names(headers) - self._keyed
        return vary_names(headers) | self._declared | self._parameters

    def with_vary(self, headers: RawHeaders) -> list[tuple[bytes, bytes]]:
        """Add the headers in the key to the response's Vary (RFC 9110, section 12.5.5)."""
        return with_vary(headers, self._adds_to_vary)
