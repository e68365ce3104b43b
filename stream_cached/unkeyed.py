"""An argument that can't be part of a key: why, and what to write instead."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from starlette.datastructures import UploadFile

from stream_cached.plumbing import is_plumbing
from stream_cached.policy import Finding, NotCached, listed
from stream_cached.signatures import dependency_of

Parameters = Mapping[str, inspect.Parameter]

#: What tells the instances of a class apart, where it has such an attribute.
_IDENTITIES = ("id", "pk", "uuid", "key", "slug", "username", "name")


class UnkeyedError(Exception):
    """
    An argument can't be part of a key; never leaves the decorator.

    Args:
        name: Its name.
        value: The argument.
        why: Why not.
        of_client: What its dependency takes that may be another one for each client.
        mend: What to write, where that is no matter of the argument's.
    """

    def __init__(
        self, name: str, value: object, why: str, *, of_client: str = "", mend: str = ""
    ) -> None:
        super().__init__(why)
        self.name = name
        self.value = value
        self.why = why
        self.of_client = of_client
        self.mend = mend

    @property
    def setting(self) -> str:
        """Its name in `key_args` and `key_ignore`."""
        return self.name.removeprefix("**")


def findings(unkeyed: Sequence[UnkeyedError], parameters: Parameters) -> list[Finding]:
    uploads = [one for one in unkeyed if _is_upload(one.value)]
    if uploads:
        return [Finding(NotCached.UPLOAD, ", ".join(one.name for one in uploads))]
    why = "; ".join(one.why for one in unkeyed)
    return [Finding(NotCached.ARGUMENT, why, _mend(unkeyed, parameters))]


def _mend(unkeyed: Sequence[UnkeyedError], parameters: Parameters) -> str:
    """Say which lines make such arguments part of the key, or leave them out; the best first."""
    ways = list(dict.fromkeys(one.mend for one in unkeyed if one.mend))
    rest = [one for one in unkeyed if not one.mend]
    instances = [one for one in rest if one.name in ("self", "cls")]
    of_client = [one for one in rest if one.of_client and is_plumbing(type(one.value))]
    others = [one for one in rest if one not in instances + of_client]
    if instances:
        ways.append(
            "pass noself=True if all instances answer alike, or "
            f"{_key_args(instances)} with what tells them apart"
        )
    for one in of_client:
        ways.append(
            f"let the endpoint take {one.of_client} as a parameter of its own, so that it is part "
            f"of the key, and {_left_out([one], parameters)}"
        )
    if others:
        names = listed(one.name for one in others)
        # What looks at the client in one endpoint does so in all.
        unidentified = [o for o in others if not (o.of_client or _identity(o.value))]
        classes = ", ".join(type(one.value).__qualname__ for one in unidentified)
        once = f", or call not_in_key({classes}) once for all endpoints"
        ways.append(
            f"{_key_args(others)} with what tells one value from another; or, if the answer does "
            f"not depend on {names}, {_left_out(others, parameters)}{once if classes else ''}"
        )
    return f"{'; '.join(ways)}; or pass key_builder= for a key of your own"


def _key_args(unkeyed: Sequence[UnkeyedError]) -> str:
    functions = []
    for one in unkeyed:
        name = one.name.lstrip("*")
        variable = name if name.isidentifier() else "value"
        identity = _identity(one.value)
        functions.append(
            f'"{one.setting}": lambda {variable}: {f"{variable}.{identity}" if identity else "..."}'
        )
    return f"pass key_args={{{', '.join(functions)}}}"


def _left_out(unkeyed: Sequence[UnkeyedError], parameters: Parameters) -> str:
    marked = " and ".join(_marked(one, parameters) for one in unkeyed)
    names = ", ".join(f'"{one.setting}"' for one in unkeyed)
    return f"declare {marked}, or pass key_ignore=({names}{',' if len(unkeyed) == 1 else ''})"


def _marked(one: UnkeyedError, parameters: Parameters) -> str:
    parameter = parameters.get(one.name)
    dependency = dependency_of(parameter) if parameter else None
    called = getattr(dependency, "__name__", "")
    depends = f"Depends({called}), " if called.isidentifier() else ""
    return f"{one.name}: Annotated[{type(one.value).__qualname__}, {depends}NotInKey]"


def _identity(value: object) -> str | None:
    """Return the attribute that tells such values apart, judging by its name."""
    state = getattr(value, "__dict__", {})
    return next((n for n in _IDENTITIES if n in state or hasattr(type(value), n)), None)


def _is_upload(value: object) -> bool:
    values = value if isinstance(value, list | tuple) else (value,)
    return any(isinstance(item, UploadFile) for item in values)
