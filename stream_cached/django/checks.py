"""The system checks: `manage.py check` says what is wrong with the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register

from stream_cached.backends.urls import from_url
from stream_cached.django.conf import SETTING, Cache, options_of
from stream_cached.errors import ConfigurationError


@register(Tags.caches)
def check_settings(app_configs: Any = None, **kwargs: Any) -> Sequence[CheckMessage]:
    """Check each cache of the setting `STREAM_CACHED`."""
    given = getattr(settings, SETTING, None)
    if given is None:
        return []
    if not isinstance(given, Mapping):
        return [
            Error(
                f"{SETTING} is no dictionary.",
                hint=f'Write {SETTING} = {{"default": {{"URL": "redis://localhost/0"}}}}.',
                id="stream_cached.E001",
            )
        ]
    errors = []
    for alias, options in given.items():
        try:
            taken = options_of(alias, options)
            if (url := taken.get("url")) is not None:
                from_url(url)
            Cache(taken)
        except ConfigurationError as exc:
            problem, _, hint = str(exc).partition(": ")
            errors.append(
                Error(f"{SETTING}[{alias!r}]: {problem}.", hint=hint, id="stream_cached.E002")
            )
    return errors
