"""Arguments that can't be part of a key: the reason and the fix."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

from starlette.datastructures import UploadFile

from stream_cached.endpoint.infrastructure import is_infrastructure
from stream_cached.endpoint.signatures import dependency_of
from stream_cached.http.reasons import Finding, NotCached

Parameters = Mapping[str, inspect.Parameter]

#: Names of attributes that usually identify an object.
_IDENTITIES = ("id", "pk", "uuid")


class UnkeyedError(Exception):
    """An argument can't be part of a key; `findings` turns it into the reason for users.

    `client_source` names the input, if any, that makes the argument depend on the client."""

    def __init__(
        self, name: str, value: object, why: str, *, client_source: str = "", fix: str = ""
    ) -> None:
        super().__init__(why)
        self.name = name
        self.value = value
        self.why = why
        self.client_source = client_source
        self.fix = fix

    @property
    def setting(self) -> str:
        """The argument's name in `key_args` and `key_ignore`."""
        return self.name.removeprefix("**")


def findings(unkeyed: Sequence[UnkeyedError], parameters: Parameters) -> list[Finding]:
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
    """Return the ways to key an argument or to leave it out, the best first."""
    name, variable = one.name, one.setting if one.setting.isidentifier() else "value"
    identity = _identity(one.value)
    function = f"lambda {variable}: {variable}.{identity or 'ATTRIBUTE'}"
    key_args = (
        f'pass key_args={{"{one.setting}": {function}}} with the part of {variable} that the '
        "answer depends on"
    )
    if name in ("self", "cls"):
        return f"pass noself=True if all instances give the same answer, or {key_args}"
    parameter = parameters.get(name)
    dependency = dependency_of(parameter) if parameter else None
    left_out = (
        f"declare {_marked(one, dependency)} (from stream_cached import NotInKey), or pass "
        f'key_ignore=("{one.setting}",)'
    )
    if one.client_source:
        plain = one.client_source.startswith(("the cookie ", "the header "))
        value = one.client_source if plain else f"the value (a name, an id) that selects {name}"
        parameter_fix = (
            f"let the endpoint take {value} as a parameter of its own, so that it is part of the "
            f"key, and {left_out}"
        )
        if is_infrastructure(type(one.value)):
            return parameter_fix
        return f"{key_args}; or {parameter_fix}"
    if identity:
        return f"{key_args}; or, if the answer is the same for every {variable}, {left_out}"
    cls = type(one.value).__name__
    if type(one.value).__module__ == "builtins":
        return f"{key_args}; or, if the answer does not depend on it, {left_out}"
    fields = f"make {cls} a dataclass, whose fields are part of the key; or "
    return (
        f"{fields if dependency is type(one.value) else ''}{key_args}; or, if the answer does not "
        f"depend on it, {left_out}, or call not_in_key({cls}) once for all endpoints"
    )


def _marked(one: UnkeyedError, dependency: Callable[..., object] | None) -> str:
    function = getattr(dependency, "__name__", "")
    depends = f"Depends({function}), " if function.isidentifier() else ""
    return f"{one.name}: Annotated[{type(one.value).__name__}, {depends}NotInKey]"


def _identity(value: object) -> str | None:
    state = getattr(value, "__dict__", {})
    return next((n for n in _IDENTITIES if n in state or hasattr(type(value), n)), None)


def _is_upload(value: object) -> bool:
    values = value if isinstance(value, list | tuple) else (value,)
    return any(isinstance(item, UploadFile) for item in values)
