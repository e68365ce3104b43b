"""The modules that are loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any


def namespaces() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the globals of each loaded module, in the order of loading."""
    for name, module in tuple(sys.modules.items()):
        # Not by the names in it: some modules load others as soon as one is looked up.
        variables = getattr(module, "__dict__", None)
        if type(variables) is dict:
            yield name, variables
