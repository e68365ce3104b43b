"""The public names are exactly those that `__all__` lists."""

from __future__ import annotations

from types import ModuleType

import stream_cached


def test_all_lists_the_public_names_and_no_others() -> None:
    public = {
        name
        for name, value in vars(stream_cached).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert sorted(public) == stream_cached.__all__ == sorted(stream_cached.__all__)
