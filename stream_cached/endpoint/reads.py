"""What the code of a dependency reads of its request, as its bytecode tells."""

from __future__ import annotations

import contextlib
import dis
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

from stream_cached.endpoint.signatures import without_partials

#: Functions that can read variables without naming them.
_ESCAPES = frozenset({"eval", "exec", "locals", "vars"})

#: The parts of a request that are part of the key, as attributes of the request.
_IN_KEY = (("method",), ("path_params",), ("query_params",), ("url", "path"), ("url", "query"))

#: The parts that are, where the host is.
_HOST = (("url", "hostname"), ("url", "netloc"), ("url", "port"), ("url", "scheme"))

#: Instructions that neither change an object nor call anything.
_PURE = (
    *("CACHE", "CALL_INTRINSIC", "COMPARE_OP", "CONTAINS_OP", "COPY", "EXTENDED_ARG", "IS_OP"),
    *("JUMP", "LOAD", "MAKE_CELL", "NOP", "NOT_TAKEN", "POP_JUMP", "POP_TOP", "PUSH_NULL"),
    *("RERAISE", "RESUME", "RETURN", "STORE_FAST", "SWAP", "TO_BOOL", "UNARY_NOT"),
)


#: Instructions that a function of one expression has in addition to its steps.
_NO_STEPS = frozenset(
    {
        *("CACHE", "COPY_FREE_VARS", "EXTENDED_ARG", "NOP", "NOT_TAKEN", "POP_TOP", "PUSH_NULL"),
        *("CALL_INTRINSIC_1", "RERAISE", "RESUME", "RETURN_GENERATOR"),
    }
)


@dataclass(frozen=True)
class Read:
    """A part of a request: a name in its state, a header, a cookie; the whole without a kind."""

    kind: str = ""
    name: str = ""


def code_of(call: Any) -> CodeType | None:
    """Return the code that a dependency's call runs; None if it is unknown."""
    code = getattr(function_of(call), "__code__", None)
    return code if isinstance(code, CodeType) else None


def function_of(call: Any) -> Any:
    """Return the function that a dependency's call runs; None if it is unknown."""
    call = without_partials(call)
    while hasattr(call, "__wrapped__"):
        # A decorator other than contextlib's may read the request itself.
        if getattr(call, "__globals__", {}).get("__name__") != contextlib.__name__:
            return None
        call = call.__wrapped__
    if inspect.isclass(call):
        return call.__init__ if call.__new__ is object.__new__ else None
    if not inspect.isroutine(call):
        call = type(call).__call__
    return getattr(call, "__func__", call)


def is_generator(call: Callable[..., Any]) -> bool:
    code = code_of(call)
    flags = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
    return code is not None and bool(code.co_flags & flags)


def only_selects(call: Callable[..., Any]) -> bool:
    """Whether a dependency only chooses what it returns, and can't change it."""
    code = code_of(call)
    if code is None or inspect.isclass(call) or is_generator(call):
        return False
    return all(each.opname.startswith(_PURE) for each in dis.get_instructions(code))


def selected(call: Callable[..., Any]) -> list[str]:
    """
    Return the names by which a dependency finds what it returns, if it does nothing else.

    The first is that of a global or of a parameter, the others are those of attributes.
    """
    code = code_of(call)
    if code is None or inspect.isclass(call) or not only_selects(call):
        return []
    steps = [i for i in dis.get_instructions(code) if i.opname not in _NO_STEPS]
    names: list[str] = []
    variable: object = None
    for step in steps:
        if step.opname == "LOAD_GLOBAL" or (not names and _loads(step)):
            # A second one would be another value.
            names = [] if names else [str(step.argval)]
            if not names:
                return []
        elif names and _reads_attribute(step):
            names.append(str(step.argval))
        elif names and step.opname == "STORE_FAST" and variable is None:
            variable = step.argval
        elif not (_loads(step) and step.argval == variable) and step.opname != "RETURN_VALUE":
            return []
    return names


def reads_of_request(
    code: CodeType | None, name: str, *, in_key: bool, host: bool, passes_on: bool = False
) -> list[Read]:
    """
    Return what a function reads of the request that it has as its parameter `name`.

    Args:
        code: The function's code; None if it is unknown.
        name: The parameter.
        in_key: Whether path and query of the request are part of the key.
        host: Whether its host is.
        passes_on: Whether the function may pass the request to the method that it overrides.
    """
    harmless = (("app",), *(_IN_KEY if in_key else ()), *(_HOST if host else ()))
    return reads_beside(code, name, harmless, passes_on=passes_on)


def reads_beside(
    code: CodeType | None,
    name: str,
    harmless: Iterable[tuple[str, ...]],
    *,
    passes_on: bool = False,
) -> list[Read]:
    """Return what a function reads of a request, but for some of its attributes."""
    if code is None or name not in inspect.getargs(code).args or _ESCAPES & {*code.co_names}:
        return [Read()]
    ways = list(harmless)
    reads: dict[Read, None] = {}
    instructions = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
    for index in _uses(instructions, name):
        if index is None:
            return [Read()]
        after = instructions[index + 1 : index + 5]
        if passes_on and _is_overridden(instructions[max(index - 4, 0) : index], after):
            continue
        names = [each.argval for each in itertools.takewhile(_reads_attribute, after)]
        if any(tuple(names[: len(way)]) == way for way in ways):
            continue
        reads[_read(names, after, instructions[max(index - 1, 0) : index])] = None
    return list(reads)


def reads_input(code: CodeType | None, name: str) -> bool:
    """Whether a function reads the path, the query or the body of its request."""
    return Read() in reads_of_request(code, name, in_key=False, host=True)


def touched_by(function: Any) -> frozenset[str] | None:
    """
    Return the arguments that a decorator's function may change before it passes them on.

    Those that it does not name are passed on as `**kwargs`. None if it may change all of them.
    """
    code = getattr(function, "__code__", None)
    if code is None or _ESCAPES & {*code.co_names}:
        return None
    arguments = inspect.getargs(code)
    if arguments.varkw is None:
        return None
    touched = set(arguments.args)
    instructions = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
    for index in _uses(instructions, arguments.varkw):
        name = None if index is None else _taken_out(instructions, index)
        if name is None:
            return None
        touched.add(name)
    return frozenset(touched - {""})


def _taken_out(instructions: Sequence[dis.Instruction], index: int) -> str | None:
    """Return the item that is looked at in a dictionary; "" if it is passed on, None if unknown."""
    before, after = instructions[index - 1], instructions[index + 1 : index + 3]
    names = [each.opname for each in after]
    if names == ["DICT_MERGE", "CALL_FUNCTION_EX"] and (before.opname, before.arg) == (
        "BUILD_MAP",
        0,
    ):
        return ""
    if names[:1] == ["CONTAINS_OP"]:
        return ""
    if len(after) < 2:
        return None
    is_get = _reads_attribute(after[0]) and after[0].argval == "get"
    key = after[1] if is_get else after[0]
    if not (key.opname.startswith("LOAD_CONST") and isinstance(key.argval, str)):
        return None
    return key.argval if is_get or _is_subscript(after[1]) else None


def _uses(instructions: Sequence[dis.Instruction], name: str) -> Iterator[int | None]:
    """Yield where a variable is loaded; None for a use that can't be followed."""
    for index, instruction in enumerate(instructions):
        if instruction.opcode not in dis.haslocal and instruction.opcode not in dis.hasfree:
            continue
        # Some instructions load two variables.
        value = instruction.argval
        variables = value if isinstance(value, tuple) else (value,)
        if name not in variables:
            continue
        is_last = variables.count(name) == 1 and variables[-1] == name
        yield index if _loads(instruction) and is_last else None


def _read(
    names: Sequence[Any], after: Sequence[dis.Instruction], before: Sequence[dis.Instruction]
) -> Read:
    """Return what the attributes of a request, and the instructions around it, come to."""
    match names:
        case ["state"] if before and before[0].argval in ("getattr", "hasattr"):
            name = after[1]
            if name.opname.startswith("LOAD_CONST") and isinstance(name.argval, str):
                return Read("state", name.argval)
        case ["state", str(name), *_]:
            return Read("state", name)
        case ["headers" | "cookies" as kind, *rest] if rest in ([], ["get"]):
            key = after[len(names)]
            if not isinstance(key.argval, str) or not key.opname.startswith("LOAD_CONST"):
                return Read()
            if not rest and not _is_subscript(after[len(names) + 1]):
                return Read()
            if kind == "headers":
                return Read("header", key.argval.lower())
            return Read("cookie", key.argval)
    return Read()


def _is_subscript(instruction: dis.Instruction) -> bool:
    is_operator = instruction.opname == "BINARY_OP" and instruction.argrepr == "[]"
    return is_operator or instruction.opname == "BINARY_SUBSCR"


def _is_overridden(before: Sequence[dis.Instruction], after: Sequence[dis.Instruction]) -> bool:
    """Whether the request is the one argument of `super().__call__`."""
    if not (before and after) or after[0].opname not in ("PRECALL", "CALL"):
        return False
    if before[-1].argval != "__call__":
        return False
    # Before Python 3.12, `super()` is called.
    is_called = [each.opname for each in before[1:3]] == ["PRECALL", "CALL"]
    is_super = before[0].argval == "super" and is_called and before[2].arg == 0
    return before[-1].opname == "LOAD_SUPER_ATTR" or is_super


def _loads(instruction: dis.Instruction) -> bool:
    last = instruction.opname.rpartition("LOAD_FAST")
    return last[1] != "" and last[2] in ("", "_BORROW", "_CHECK")


def _reads_attribute(instruction: dis.Instruction) -> bool:
    return instruction.opname in ("LOAD_ATTR", "LOAD_METHOD")
