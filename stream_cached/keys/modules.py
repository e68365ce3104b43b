"""The modules that are loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

#: Names of the module that a program starts with, which has a name of its own for others.
_MAIN = ("__main__", "__mp_main__")


def namespaces() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the globals of each loaded module, in the order of loading."""
    for name, module in tuple(sys.modules.items()):
        # Not by the names in it: some modules load others as soon as one is looked up.
        variables = getattr(module, "__dict__", None)
        if type(variables) is dict:
            yield name, variables


def shared_name(name: str) -> str:
    """Return the name by which other processes import a module."""
    if name not in _MAIN:
        return name
    module = sys.modules.get(name)
    spec, file = getattr(module, "__spec__", None), getattr(module, "__file__", None)
    shared = spec.name if spec is not None else PurePath(file).stem if file else name
    return name if sys.modules.get(shared, module) is not module else shared
