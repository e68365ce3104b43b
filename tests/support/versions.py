"""Tests that need what older versions of a package do not have."""

from __future__ import annotations

from importlib.metadata import version

import pytest


def needs(package: str, least: str, why: str) -> pytest.MarkDecorator:
    """
    Skip a test where an older version of a package is installed.

    Args:
        package: Its name.
        least: The first version that will do, such as "0.118".
        why: What earlier ones do or lack.
    """
    reason = f"{package} before {least} {why}"
    return pytest.mark.skipif(_numbers(version(package)) < _numbers(least), reason=reason)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")[:2]))


streams_generators = needs("fastapi", "0.134", "does not stream what a generator yields")
