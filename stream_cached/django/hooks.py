"""What the Django door adds to the way of a request."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.middleware.http import ConditionalGetMiddleware as ConditionalGet
from django.utils.module_loading import import_string

from stream_cached.backends.binding import Binding
from stream_cached.decorated.hooks import AiocacheHooks
from stream_cached.django.execution import NoResponse
from stream_cached.django.frozen import Fields, heeded
from stream_cached.engine.outcome import Call
from stream_cached.engine.service import Hooks
from stream_cached.entries.lifetimes import Lifetimes
from stream_cached.events import Reporter
from stream_cached.http.reasons import Finding, NotCached

#: Where a fix of another door is of no use to a view.
_FIXES = {
    NotCached.AUTHORIZATION: (
        'pass per_user=True, so that there are entries for each user; authorized="vary" to keep '
        'entries for each credential, or authorized="share" if all users may be given the same; '
        "or let the response say Cache-Control: public"
    ),
    NotCached.SET_COOKIE: "set the cookie in a middleware, or in another view",
    NotCached.ARGUMENT: (
        "pass key_args= with a function that returns the part of the argument on which the answer "
        "depends, or key_ignore= if it depends on nothing of it"
    ),
}


@functools.lru_cache(maxsize=64)
def _makes_tags(middleware: Sequence[str]) -> bool:
    made = [import_string(each) for each in middleware]
    return any(isinstance(each, type) and issubclass(each, ConditionalGet) for each in made)


class DjangoHooks(Hooks):
    """The cache of a view: that of the settings, with the options of its decorator."""

    def __init__(self, hooks: AiocacheHooks) -> None:
        self._hooks = hooks

    @property
    def by_response(self) -> bool:
        """Whether a response says itself for how long it is fresh."""
        return self._hooks.by_response

    @property
    def has_own_tags(self) -> bool:
        """Whether `ConditionalGetMiddleware` makes an ETag of each body that is no stream."""
        return _makes_tags(tuple(settings.MIDDLEWARE))

    def is_switched_off(self) -> bool:
        """Whether the environment has switched the cache off."""
        return self._hooks.is_switched_off()

    def is_invalidation_off(self) -> bool:
        """Whether the environment has switched the cache off."""
        return self._hooks.is_invalidation_off()

    def binding(self) -> Binding:
        """Return the cache."""
        return self._hooks.binding()

    def ttl(self) -> float | None:
        """Return how long an entry is fresh."""
        return self._hooks.ttl()

    @property
    def deciding(self) -> str:
        """What the user has to say whether a result is to be stored."""
        return self._hooks.deciding

    def accepts(self, call: Call, resource: Any, result: Any) -> bool:
        """Ask the functions of the decorator, which know a response of Django."""
        if isinstance(result, NoResponse):
            return False
        return self._hooks.accepts(call, resource, getattr(result, "django", result))

    def heeded(self, asked: Fields, stored: Fields) -> Fields:
        """Return what counts of a request's conditions: nothing that asks for a field that is
        frozen while it is absent."""
        return heeded(asked, stored)

    def adapt_lifetimes(self, call: Call, lifetimes: Lifetimes) -> Lifetimes:
        """Return how long the records of a call live."""
        return self._hooks.adapt_lifetimes(call, lifetimes)


class ViewReporter(Reporter):
    """The log of one view, with fixes for views."""

    def not_cached(self, *findings: Finding) -> None:
        """Warn once that and why a response is not cached, and how to fix that."""
        super().not_cached(*map(for_view, findings))


def for_view(finding: Finding) -> Finding:
    """Return a finding with a fix for views."""
    fix = finding.fix or _FIXES.get(finding.reason, "")
    return Finding(finding.reason, finding.subject, fix)
