"""No module and no function is larger than one can take in at once."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import stream_cached

PACKAGE = Path(stream_cached.__file__).parent

MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}

LINES = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}


def test_no_module_has_more_than_350_lines() -> None:
    assert {name: lines for name, lines in LINES.items() if lines > 350} == {}


def test_no_function_has_more_than_60_lines() -> None:
    found = {}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                # From its name to its last line; a docstring counts, decorators do not.
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > 60:
                    found[f"{name}:{node.lineno} {node.name}"] = lines
    assert found == {}


def test_a_module_is_neither_large_nor_a_fragment_as_a_rule() -> None:
    # A folder's own module says only what the folder is about.
    sizes = [lines for name, lines in LINES.items() if not name.endswith("__init__.py")]
    assert 80 <= statistics.median(sizes) <= 220
