"""Keys of cashews' own decorators that end with what `vary_on_headers` has set."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from cashews.key import get_cache_key, get_cache_key_template

from stream_cached.checks import require

#: The modules of cashews whose decorators read and store by a key.
_CACHES = ("simple", "hit", "early", "soft", "fail")

#: By the identity of a function: the function, and the templates of the keys of its caches.
_templates: dict[int, tuple[object, set[str]]] = {}

Suffix = Callable[[Callable[..., Any]], str]


def varies(
    layer: Callable[..., Any],
    module: str,
    cells: Mapping[str, Any],
    function: Callable[..., Any],
    suffix_of: Suffix,
) -> bool:
    """
    Let the keys of a cache end with what is set for its function, and return whether it is one.

    Args:
        layer: The function that cashews has made.
        module: The module of cashews that has made it.
        cells: What it refers to.
        function: The innermost function.
        suffix_of: Returns what the keys of a function end with.
    """
    require(
        not module.endswith(".iterator"),
        "vary_on_headers can't be above cashews' @cache.iterator: use @stream_cached, which caches "
        "generators, too",
    )
    options = cells.get("decor_kwargs")
    if module == "cashews.wrapper.decorators" and isinstance(options, dict):
        key, prefix = options.get("key"), options.get("prefix", "")
        # The one is that of the cache, the other that by which concurrent calls are joined.
        found = {
            get_cache_key_template(layer, key=key, prefix=prefix),
            get_cache_key_template(layer, key=key),
        }
    elif module.startswith("cashews.decorators.cache.") and "_key_template" in cells:
        options, found = cells, {cells["_key_template"]}
    else:
        return False
    require(
        found.isdisjoint(options.get("tags", ())),
        f"vary_on_headers can't tell the key of {function.__qualname__} from one of its tags: let "
        "them differ",
    )
    _, templates = _templates.setdefault(id(function), (function, set()))
    templates |= found
    for name in (*(f"cache.{each}" for each in _CACHES), "locked"):
        _patch(importlib.import_module(f"cashews.decorators.{name}"), suffix_of)
    return True


def _patch(module: Any, suffix_of: Suffix) -> None:
    """Let the keys that a module of cashews makes end with what is set for their function."""
    if module.get_cache_key is not get_cache_key:
        return

    def varied(
        func: Callable[..., Any],
        template: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> str:
        key = get_cache_key(func, template, args, kwargs)
        suffix = suffix_of(func)
        return f"{key}{suffix}" if suffix and _is_key(func, template) else key

    module.get_cache_key = varied


def _is_key(func: Any, template: str | None) -> bool:
    """Whether it is the template of a cache's keys: tags and locks have templates, too."""
    while hasattr(func, "__wrapped__"):
        func = func.__wrapped__
    return id(func) in _templates and template in _templates[id(func)][1]
