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

    `client_source` names the input, if any, that makes the argument depend on the client;
    `is_known` is False where the origin of the argument is unknown, `of_engine` is True where it is
    that of its engine."""

    def __init__(
        self,
        name: str,
        value: object,
        why: str,
        *,
        client_source: str = "",
        is_known: bool = True,
        of_engine: bool = False,
        fix: str = "",
    ) -> None:
        super().__init__(why)
        self.name = name
        self.value = value
        self.why = why
        self.client_source = client_source
        self.is_known = is_known
        self.of_engine = of_engine
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
        own = _fix_of_client(one)
        if not one.is_known:
            own += f", and {left_out}"
        elif is_infrastructure(type(one.value)):
            ignored = f'pass key_ignore=("{one.setting}",)'
            own += f"; or {ignored} if every client is given the same answer"
        return own if is_infrastructure(type(one.value)) else f"{key_args}; or {own}"
    cls = type(one.value).__name__
    if is_infrastructure(type(one.value)):
        return (
            f"{_kept(one, variable)}; or, if every {variable} gives the same answer, {left_out}, "
            f"or call not_in_key({cls}) once for all endpoints"
        )
    if identity:
        return (
            f"{key_args}, or call in_key({cls}, {function}) once for all endpoints; or, if the "
            f"answer is the same for every {variable}, {left_out}"
        )
    if type(one.value).__module__ == "builtins":
        return f"{key_args}; or, if the answer does not depend on it, {left_out}"
    fields = f"make {cls} a dataclass, whose fields are part of the key; or "
    return (
        f"{fields if dependency is type(one.value) else ''}{key_args}; or, if the answer does not "
        f"depend on it, {left_out}, or call not_in_key({cls}) once for all endpoints"
    )


def _kept(one: UnkeyedError, variable: str) -> str:
    """Return where to keep a tool, so that its origin is known."""
    if one.of_engine:
        return (
            "keep its engine where the application holds it: app.state.engine = engine where the "
            "engine is made, or in a global of a module"
        )
    return (
        f"keep it where the application holds it: app.state.{variable} = {variable} where it is "
        "made, in a global of a module, or in the state of the lifespan; or let a dependency yield "
        "it, if it is made for each request"
    )


def _fix_of_client(one: UnkeyedError) -> str:
    """Return the way to put into the key what makes an argument depend on who asks."""
    source = one.client_source.partition(", by ")[0]
    if ", " not in source and source.startswith(("the cookie ", "the header ")):
        return f"let the endpoint take {source} as a parameter of its own, so that it is in the key"
    if ", " not in source and source.startswith("the context variable "):
        variable = source.rpartition(".")[2].rpartition(" ")[2]
        return (
            f"pass key_context=({variable},), so that it is in the key, or key_context=() if the "
            "answer depends on no context variable"
        )
    return (
        "let the endpoint take who asks as a parameter of its own, as user: Annotated[User, "
        "Depends(current_user), InKey(lambda user: user.id)] (from stream_cached import InKey)"
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
