"""
Count what ties modules together beside their imports, as far as the source shows it.

Run it as `python -m tests.support.handed_over [DIRECTORY or FILE ...]`.
Callables: parameters, fields and attributes that are annotated with `Callable` or an alias of it,
and lambdas, partials, functions and bound methods that are arguments of a call into another module
of the package. Attributes: those that are set on an object that is not `self`, was not made in the
same function, and is of no class of the same module.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

DEFAULT = [f"stream_cached/{name}" for name in ("runs", "entries", "streams", "engine")]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def names_in(*nodes: ast.AST | None) -> set[str]:
    """Return the names in expressions."""
    parts = [part for node in nodes if node is not None for part in ast.walk(node)]
    return {last(part) for part in parts if isinstance(part, ast.Name | ast.Attribute)}


def last(node: ast.expr) -> str:
    """Return the last name of an expression such as `a.b.c`."""
    return ast.unparse(node).rpartition(".")[2]


class Module:
    """One module: what it defines and imports."""

    def __init__(self, path: Path, package: str) -> None:
        self.path, self.nodes = path, list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        self.ours: dict[str, str] = {}  # the module that a name is imported from
        self.aliases, self.data = {"Callable"}, set[str]()
        self.functions = {node.name for node in self.nodes if isinstance(node, Function)}
        self.classes = {node.name for node in self.nodes if isinstance(node, ast.ClassDef)}
        self.methods = set[str]()
        self.types: dict[str, set[str]] = defaultdict(set)  # of variables and attributes, by name
        for node in self.nodes:
            self._take(node, package)

    def _take(self, node: ast.AST, package: str) -> None:
        match node:
            case ast.ImportFrom(module=str(source), names=names):
                if source.partition(".")[0] == package:
                    self.ours |= {a.asname or a.name: source.rpartition(".")[2] for a in names}
            case ast.ClassDef(body=body):
                for method in (each for each in body if isinstance(each, Function)):
                    is_data = names_in(*method.decorator_list) & {"property", "setter"}
                    (self.data if is_data else self.methods).add(method.name)
            case ast.Assign(targets=[alias], value=ast.Subscript(value=ast.Name("Callable"))):
                self.aliases.add(last(alias))
            case ast.Assign(targets=targets, value=value):
                made = value.func if isinstance(value, ast.Call) else value
                for target in targets:
                    self.data |= {target.attr} if isinstance(target, ast.Attribute) else set()
                    self.types[last(target)].add(last(made))
            case ast.AnnAssign(target=ast.Name(id=name) | ast.Attribute(attr=name)):
                self.data.add(name)
                self.types[name] |= names_in(node.annotation)
            case ast.arg(arg=name, annotation=annotation):
                self.types[name] |= names_in(annotation)

    def owns(self, name: str) -> bool:
        """Whether what has this name is of a class of this module."""
        types = self.types[name].union(*(self.types[each] for each in [*self.types[name]]))
        return bool(types & self.classes)


class Counter:
    """What a package hands over and sets, in some of its modules."""

    def __init__(self, root: Path) -> None:
        self.modules = {path: Module(path, root.name) for path in root.rglob("*.py")}
        self.data = {name for module in self.modules.values() for name in module.data}
        self.methods: dict[str, set[Path]] = defaultdict(set)
        self.aliases: dict[str, set[str]] = defaultdict(set)
        for path, module in self.modules.items():
            self.aliases[path.stem] |= module.aliases
            for name in module.methods:
                self.methods[name].add(path)

    def callables(self, module: Module) -> Iterator[ast.expr | ast.stmt | ast.arg]:
        """Give the callables that are handed over."""
        aliases = {name for name, source in module.ours.items() if name in self.aliases[source]}
        for node in module.nodes:
            match node:
                case ast.arg(annotation=annotation) | ast.AnnAssign(annotation=annotation):
                    if names_in(annotation) & (module.aliases | aliases):
                        yield node
                case ast.Call(func=function, args=args, keywords=keywords):
                    first, dot, _ = ast.unparse(function).partition(".")
                    if first in module.ours or (
                        dot and self.methods[last(function)] - {module.path}
                    ):
                        given = [*args, *(keyword.value for keyword in keywords)]
                        yield from (each for each in given if self._is_callable(each, module))

    def _is_callable(self, given: ast.expr, module: Module) -> bool:
        if isinstance(given, ast.Attribute):
            data = module.data if ast.unparse(given.value) == "self" else self.data
            return given.attr in self.methods and given.attr not in data
        is_partial = isinstance(given, ast.Call) and last(given.func) == "partial"
        names = module.functions - module.methods - module.data
        return isinstance(given, ast.Lambda) or is_partial or last(given) in names

    def attributes(self, module: Module) -> Iterator[ast.expr]:
        """Give the attributes that are set on objects of others."""
        for function in module.nodes:
            if isinstance(function, Function):
                own = {"self", "cls", *made_in(function)}
                nodes = [node for node in ast.walk(function) if isinstance(node, ast.Attribute)]
                for node in (node for node in nodes if isinstance(node.ctx, ast.Store)):
                    if ast.unparse(node.value) not in own and not module.owns(last(node.value)):
                        yield node


def made_in(function: Function) -> Iterator[str]:
    """Give the variables that hold what a function has made, as far as a name shows that."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            names = names_in(node.value.func)
            if names & {"__new__", "copy", "replace"} or any(n[0].isupper() for n in names):
                yield from map(last, node.targets)


def main(arguments: list[str]) -> None:
    """Print each place, and the totals."""
    lines: dict[str, set[str]] = {"callables": set(), "attributes": set()}
    paths = [Path(each) for each in arguments or DEFAULT]
    above = [paths[0].absolute(), *paths[0].absolute().parents]
    root = [path for path in above if path.is_dir() and (path / "__init__.py").exists()][-1]
    for path, module in (counter := Counter(root)).modules.items():
        if any(path.is_relative_to(each.absolute()) for each in paths):
            for kind, found in lines.items():
                for node in getattr(counter, kind)(module):
                    found.add(f"{path.relative_to(root)}:{node.lineno}: {ast.unparse(node)}")
    for kind, found in lines.items():
        sys.stdout.write("\n".join([*sorted(found), f"{kind}: {len(found)}", "\n"]))


if __name__ == "__main__":
    main(sys.argv[1:])
