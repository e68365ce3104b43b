"""The app for INSTALLED_APPS, which has the system checks."""

from __future__ import annotations

import importlib

from django.apps import AppConfig


class StreamCachedConfig(AppConfig):
    """Put `"stream_cached.django"` into INSTALLED_APPS."""

    name = "stream_cached.django"
    label = "stream_cached"
    verbose_name = "stream_cached"

    def ready(self) -> None:
        """Register the system checks."""
        importlib.import_module("stream_cached.django.checks")
