"""The demo's data: the source files of the running Python's standard library."""

import ast
import codecs
import contextlib
import csv
import importlib
import io
import json
import re
import sqlite3
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROWS_PER_CHUNK = 100

_COLUMNS = ("module", "line", "length", "same_lines", "text")
_EXPORT = """
    SELECT module, line, length(text), same_lines, text
    FROM (SELECT *, count(*) OVER (PARTITION BY text) AS same_lines FROM lines)
    WHERE module = coalesce(?, module)
    ORDER BY module, line
"""


def source_files() -> list[Path]:
    """Return the source files of the standard library's top-level modules."""
    folder = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in folder.glob("*.py") if path.stem in sys.stdlib_module_names)


#: The database of this process. Where it is says nothing about what is in it, so that it is no
#: part of a key.
_databases: list[Path] = []


def build_database(path: Path) -> int:
    """Write the non-blank lines of the source files to SQLite; return the number of rows."""
    _databases[:] = [path]
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE lines (module TEXT, line INTEGER, text TEXT)")
        return database.executemany("INSERT INTO lines VALUES (?, ?, ?)", _lines()).rowcount


def export_csv(module: str | None = None) -> Iterator[str]:
    """Yield the database as CSV, 100 rows per chunk, with the number of equal lines."""
    (path,) = _databases
    with contextlib.closing(sqlite3.connect(path, check_same_thread=False)) as database:
        rows = database.execute(_EXPORT, (module,))
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow(_COLUMNS)
        while batch := rows.fetchmany(ROWS_PER_CHUNK):
            writer.writerows(batch)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()


def records() -> Iterator[str]:
    """Yield JSON lines for all modules, classes and functions; a class and its members together."""
    for path in source_files():
        with tokenize.open(path) as source:
            tree = ast.parse(source.read())
        yield _record(path.stem, tree, path.stem)
        for node in tree.body:
            if lines := "".join(_definitions(path.stem, node, path.stem)):
                yield lines


def words() -> list[str]:
    """Return the words of the Zen of Python, each with the white space after it."""
    with contextlib.redirect_stdout(io.StringIO()):
        zen = codecs.decode(importlib.import_module("this").s, "rot13")
    return re.findall(r"\S+\s*", zen)


def _lines() -> Iterator[tuple[str, int, str]]:
    for path in source_files():
        with tokenize.open(path) as source:
            for number, line in enumerate(source, start=1):
                if text := line.rstrip():
                    yield path.stem, number, text


def _definitions(module: str, node: ast.AST, name: str) -> Iterator[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        name = f"{name}.{node.name}"
        yield _record(module, node, name)
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield from _definitions(module, child, name)


def _record(
    module: str, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> str:
    summary = (ast.get_docstring(node) or "").partition("\n")[0]
    kind = type(node).__name__.removesuffix("Def")
    line = 1 if isinstance(node, ast.Module) else node.lineno
    record = {"module": module, "line": line, "kind": kind, "name": name, "doc": summary}
    return json.dumps(record) + "\n"
