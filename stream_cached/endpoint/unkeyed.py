"""An argument that can't be part of a key: why, and what to write instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

from starlette.datastructures import UploadFile

from stream_cached.endpoint.infrastructure import is_plumbing
from stream_cached.endpoint.signatures import dependency_of
from stream_cached.http.reasons import Finding, NotCached

Parameters = Mapping[str, inspect.Parameter]

#: What tells the instances of a class apart, where it has such an attribute.
_IDENTITIES = ("id", "pk", "uuid")


class UnkeyedError(Exception):
    """
    An argument can't be part of a key; never leaves the decorator.

    Args:
        name: Its name.
        value: The argument.
        why: Why not.
        of_client: What its dependency takes that may be another one for each client.
        fix: What to write, where that is no matter of the argument's.
    """

    def __init__(
        self, name: str, value: object, why: str, *, of_client: str = "", fix: str = ""
    ) -> None:
        super().__init__(why)
        self.name = name
        self.value = value
        self.why = why
        self.of_client = of_client
        self.fix = fix

    @property
    def setting(self) -> str:
        """Its name in `key_args` and `key_ignore`."""
        return self.name.removeprefix("**")


def findings(unkeyed: Sequence[UnkeyedError], parameters: Parameters) -> list[Finding]:
    """Say why a call is not cached, of all its arguments at once."""
    uploads = [one for one in unkeyed if _is_upload(one.value)]
    if uploads:
        return [Finding(NotCached.UPLOAD, ", ".join(one.name for one in uploads))]
    fixes = [one.fix or _fix(one, parameters) for one in unkeyed]
    ways = list(dict.fromkeys(fixes))
    if len(ways) > 1:
        ways = [f"{one.name}: {fix}" for one, fix in zip(unkeyed, fixes, strict=True)]
    ways.append("or pass key_builder= for a key of your own")
    why = "; ".join(one.why for one in unkeyed)
    return [Finding(NotCached.ARGUMENT, why, "; ".join(ways))]


def _fix(one: UnkeyedError, parameters: Parameters) -> str:
    """Say which lines make an argument part of the key, or leave it out; the best first."""
    name, variable = one.name, one.setting if one.setting.isidentifier() else "value"
    identity = _identity(one.value)
    function = f"lambda {variable}: {variable}.{identity or 'ATTRIBUTE'}"
    key_args = (
        f'pass key_args={{"{one.setting}": {function}}} with whatever of {variable} the answer '
        "depends on"
    )
    if name in ("self", "cls"):
        return f"pass noself=True if all instances answer alike, or {key_args}"
    parameter = parameters.get(name)
    dependency = dependency_of(parameter) if parameter else None
    left_out = (
        f"declare {_marked(one, dependency)} (from stream_cached import NotInKey), or pass "
        f'key_ignore=("{one.setting}",)'
    )
    if one.of_client:
        plain = one.of_client.startswith(("the cookie ", "the header "))
        of_it = one.of_client if plain else f"the value (a name, an id) that {name} is chosen by"
        taken = (
            f"let the endpoint take {of_it} as a parameter of its own, so that it is part of the "
            f"key, and {left_out}"
        )
        return taken if is_plumbing(type(one.value)) else f"{key_args}; or {taken}"
    if identity:
        return f"{key_args}; or, if any other {variable} would be given the same, {left_out}"
    cls = type(one.value).__name__
    if type(one.value).__module__ == "builtins":
        return f"{key_args}; or, if the answer does not depend on it, {left_out}"
    fields = f"make {cls} a dataclass, whose fields are part of the key; or "
    return (
        f"{fields if dependency is type(one.value) else ''}{key_args}; or, if it is only a tool, "
        f"and any other one would give the same answer, {left_out}, or call not_in_key({cls}) once "
        "for all endpoints"
    )


def _marked(one: UnkeyedError, dependency: Callable[..., object] | None) -> str:
    called = getattr(dependency, "__name__", "")
    depends = f"Depends({called}), " if called.isidentifier() else ""
    return f"{one.name}: Annotated[{type(one.value).__name__}, {depends}NotInKey]"


def _identity(value: object) -> str | None:
    """Return the attribute that tells such values apart, judging by its name."""
    state = getattr(value, "__dict__", {})
    return next((n for n in _IDENTITIES if n in state or hasattr(type(value), n)), None)


def _is_upload(value: object) -> bool:
    values = value if isinstance(value, list | tuple) else (value,)
    return any(isinstance(item, UploadFile) for item in values)
