"""Keys of cashews' own decorators that end with what `vary_on_headers` has set."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cashews.key import get_cache_key, get_cache_key_template

from stream_cached.checks import require
from stream_cached.vary_on_headers import innermost, suffix_of

#: How the modules of cashews are called whose decorators read and store by a key.
_CACHES = "cashews.decorators.cache."

#: The module of what joins calls, and of locks; `cashews.decorators.locked` is a function.
_locked = importlib.import_module("cashews.decorators.locked")


@dataclass(slots=True)
class _Varied:
    """What is known of the templates of one function."""

    function: object
    tags: set[str] = field(default_factory=set)
    joined: set[str] = field(default_factory=set)
    """Those of the keys by which concurrent calls are joined."""


#: By the identity of a function.
_varied: dict[int, _Varied] = {}


def varies(
    layer: Callable[..., Any],
    module: str,
    cells: Mapping[str, Any],
    function: Callable[..., Any],
) -> bool:
    """
    Let the keys of a cache end with what is set for its function, and return whether it is one.

    Args:
        layer: The function that cashews has made.
        module: The module of cashews that has made it.
        cells: What it refers to.
        function: The innermost function.
    """
    require(
        not module.endswith(".iterator"),
        "vary_on_headers can't be above cashews' @cache.iterator: use @stream_cached, which caches "
        "generators, too",
    )
    options = cells.get("decor_kwargs")
    if module == "cashews.wrapper.decorators" and isinstance(options, dict):
        key = options.get("key")
        joined = {get_cache_key_template(layer, key=key)}
        found = {get_cache_key_template(layer, key=key, prefix=options.get("prefix", ""))}
    elif module.startswith(_CACHES) and "_key_template" in cells:
        options, joined, found = cells, set(), {cells["_key_template"]}
    else:
        return False
    tags = {*options.get("tags", ())}
    require(
        tags.isdisjoint(found | joined),
        f"vary_on_headers can't tell the key of {function.__qualname__} from one of its tags: let "
        "them differ",
    )
    known = _varied.setdefault(id(function), _Varied(function))
    known.tags |= tags
    known.joined |= joined
    for name, each in list(sys.modules.items()):
        if name.startswith(_CACHES):
            _patch(each, lambda known, template: template not in known.tags)
    # Locks stay those of all variants.
    _patch(_locked, lambda known, template: template in known.joined)
    return True


def _patch(module: Any, is_key: Callable[[_Varied, str | None], bool]) -> None:
    """Let the keys that a module of cashews makes end with what is set for their function."""
    if getattr(module, "get_cache_key", None) is not get_cache_key:
        return

    def varied(
        func: Callable[..., Any],
        template: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> str:
        key = get_cache_key(func, template, args, kwargs)
        suffix = suffix_of(func)
        if not suffix:
            return key
        known = _varied.get(id(innermost(func)))
        return f"{key}{suffix}" if known is not None and is_key(known, template) else key

    module.get_cache_key = varied
