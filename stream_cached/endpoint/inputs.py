"""What FastAPI parses of a request for one function, and what else may read body and query."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from stream_cached.endpoint.dependencies import overrides_of
from stream_cached.endpoint.function import HIDDEN
from stream_cached.endpoint.reads import Read, code_of, reads_beside
from stream_cached.endpoint.route import effective_route, is_endpoint, stands_for
from stream_cached.endpoint.signatures import class_names
from stream_cached.endpoint.taken import name_of

#: The headers that are part of a key with the bytes of the body, or that follow from the body.
OF_BODY = frozenset({"content-type", "content-encoding", "content-length", "transfer-encoding"})

#: Attributes of a request by which nothing is read of its body, its headers aside.
_BESIDE_BODY = (
    *("app", "auth", "base_url", "client", "cookies", "method", "path_params", "query_params"),
    *("scope", "session", "state", "url", "url_for", "user"),
)

#: Those by which nothing is read of its query.
_BESIDE_QUERY = (
    *("app", "auth", "base_url", "body", "client", "cookies", "form", "headers", "is_disconnected"),
    *("json", "method", "path_params", "session", "state", "stream", "url_for", "user"),
)

_SCHEME = "fastapi.security.base.SecurityBase"
_QUERY_KEY = "fastapi.security.api_key.APIKeyQuery"


@dataclass(frozen=True)
class Inputs:
    """What FastAPI parses of the requests of a route."""

    body: frozenset[str] = frozenset()
    """The arguments that are all that is read of the body; none where it may be read otherwise."""
    query: frozenset[str] = frozenset()
    """The names in the query that others than the function itself declare."""
    whole_query: str = ""
    """Why more of the query may be read; empty if nothing else is."""


#: Nothing says what reads a request.
UNKNOWN = Inputs(whole_query="it is not what a route of FastAPI calls, with nothing in between")


class RouteInputs:
    """
    What FastAPI parses for a function, on each of its routes.

    Args:
        function: The function.
        wrapper: What the decorator has made of it.
    """

    def __init__(self, function: Callable[..., Any], wrapper: Callable[..., Any]) -> None:
        self._function = function
        self._wrapper = wrapper
        # With what the ids in the keys belong to, so that they are not reused.
        self._routes: dict[tuple[object, ...], tuple[Inputs, object]] = {}

    def of(self, scope: Mapping[str, Any]) -> Inputs:
        """Return what is parsed on the route of a request."""
        route, overrides = effective_route(scope), overrides_of(scope)
        if not (is_endpoint(self._wrapper, route) and _has_own_handler(scope["route"])):
            return UNKNOWN
        replaced = tuple((id(call), id(other)) for call, other in overrides.items())
        key = (id(route.dependant), replaced)
        if key not in self._routes:
            kept = (route.dependant, dict(overrides))
            self._routes[key] = self._find(*kept), kept
        return self._routes[key][0]

    def _find(self, dependant: Any, overrides: Mapping[Any, Any]) -> Inputs:
        own = _own(dependant, self._function)
        others = [each for each in _effective(dependant, overrides) if each is not own]
        query, why = _query(self._function, own, others)
        return Inputs(_body(self._function, own, others), query, why)


def _has_own_handler(route: Any) -> bool:
    """Whether FastAPI itself handles the requests of a route, and no subclass of the route."""
    handler = getattr(type(route), "get_route_handler", None)
    module = str(getattr(handler, "__module__", ""))
    return module == "fastapi.routing" or module.startswith("stream_cached.")


def _own(dependant: Any, function: Callable[..., Any]) -> Any:
    """Return what has the parameters of the function itself."""
    resolvers = [each for each in dependant.dependencies if stands_for(each.call) is function]
    return resolvers[0] if resolvers else dependant


def _effective(dependant: Any, overrides: Mapping[Any, Any]) -> Iterator[Any]:
    """Yield all that FastAPI solves for a route, with what replaces dependencies."""
    yield dependant
    for each in dependant.dependencies:
        replaced = overrides.get(each.call) if overrides else None
        yield from _effective(each if replaced is None else _dependant(each, replaced), overrides)


def _dependant(replaced: Any, call: Callable[..., Any]) -> Any:
    from fastapi.dependencies.utils import get_dependant

    return get_dependant(path=replaced.path or "", call=call)


def _request_names(dependant: Any) -> list[str]:
    """Return the parameters that a function is passed the request as."""
    names = (dependant.request_param_name, dependant.http_connection_param_name)
    # The function itself never sees the hidden one.
    return [name for name in names if name and name != HIDDEN]


# -- the body -------------------------------------------------------------------------------------


def _body(function: Callable[..., Any], own: Any, others: list[Any]) -> frozenset[str]:
    """Return the arguments that are all that is read of the body."""
    fields = own.body_params
    is_parsed = fields and not any(_is_form(field) for field in fields)
    if not is_parsed or any(each.body_params or _may_read_body(each) for each in others):
        return frozenset()
    if any(map(_is_of_body, _read_by(function, own, _BESIDE_BODY))):
        return frozenset()
    return frozenset(field.name for field in fields)


def _is_form(field: Any) -> bool:
    return "fastapi.params.Form" in class_names(type(field.field_info))


def _may_read_body(dependant: Any) -> bool:
    """Whether a dependency may read the body as it is, or what follows from its bytes."""
    headers = {name for field in dependant.header_params for name in _names_of(field)}
    if any(name.lower().replace("_", "-") in {"", *OF_BODY} for name in headers):
        return True
    return any(map(_is_of_body, _reads(dependant, _BESIDE_BODY)))


def _is_of_body(read: Read) -> bool:
    return read.kind != "header" or read.name in OF_BODY


# -- the query ------------------------------------------------------------------------------------


def _query(function: Callable[..., Any], own: Any, others: list[Any]) -> tuple[frozenset[str], str]:
    """Return the names that others declare, and why that may not be all that is read."""
    if _read_by(function, own, _BESIDE_QUERY):
        return frozenset(), "it may read the query of its request"
    names: set[str] = set()
    for each in others:
        found = {name for field in each.query_params for name in _names_of(field)}
        if _QUERY_KEY in class_names(type(each.call)):
            found.add(each.call.model.name)
        if "" in found or _reads(each, _BESIDE_QUERY):
            return frozenset(), f"{name_of(each.call)} may read more of the query than it declares"
        names |= found
    return frozenset(names), ""


def _names_of(field: Any) -> Iterator[str]:
    """Yield the names by which a parameter is found in a request; "" if these are not all."""
    annotation = field.field_info.annotation
    models = [each for each in (annotation, *get_args(annotation)) if _is_model(each)]
    if not models:
        yield from _aliases(field.name, field.field_info)
        yield field.alias
    if _holds_mapping(annotation) or (models and field.field_info.metadata):
        yield ""
    for model in models:
        if _sees_all(model):
            yield ""
        for name, each in model.model_fields.items():
            yield from _aliases(name, each)


def _holds_mapping(annotation: Any) -> bool:
    own = get_origin(annotation) or annotation
    is_own = isinstance(own, type) and issubclass(own, Mapping)
    return is_own or any(map(_holds_mapping, get_args(annotation)))


def _is_model(annotation: Any) -> bool:
    return hasattr(annotation, "__pydantic_decorators__") and hasattr(annotation, "model_fields")


def _sees_all(model: Any) -> bool:
    """Whether more than the fields of a model may come from what it is made of."""
    validators = model.__pydantic_decorators__.model_validators.values()
    methods = ("__init__", "__get_pydantic_core_schema__")
    own = [cls for cls in model.__mro__ if not cls.__module__.startswith("pydantic.")]
    return (
        model.model_config.get("extra", "ignore") == "allow"
        or any(each.info.mode != "after" for each in validators)
        or any(name in vars(cls) for cls in own for name in methods if cls is not object)
    )


def _aliases(name: str, field: Any) -> Iterator[str]:
    yield name
    for alias in (field.alias, field.validation_alias):
        # One of several, or the way into a value.
        for choice in getattr(alias, "choices", (alias,)):
            first = getattr(choice, "path", (choice,))[0]
            if isinstance(first, str):
                yield first


def _reads(dependant: Any, beside: Sequence[str]) -> list[Read]:
    """Return what a dependency may read of its request, but for some attributes."""
    return [
        read
        for call, passes_on in _codes(dependant.call)
        for read in _read_by(call, dependant, beside, passes_on=passes_on)
    ]


def _read_by(
    call: Any, dependant: Any, beside: Sequence[str], *, passes_on: bool = False
) -> list[Read]:
    """Return what the code of a call reads of the request that it is passed."""
    ways = [(each,) for each in beside]
    return [
        read
        for name in _request_names(dependant)
        for read in reads_beside(code_of(call), name, ways, passes_on=passes_on)
    ]


def _codes(call: Any) -> Iterator[tuple[Any, bool]]:
    """Yield the functions that read the request of a dependency, and which of them overrides one.

    Those of FastAPI's own security schemes read headers, cookies and the query."""
    if _SCHEME not in class_names(type(call)):
        yield call, False
        return
    for cls in type(call).__mro__:
        own = vars(cls).get("__call__")
        if own is not None and cls.__module__.startswith("fastapi.security."):
            return
        if own is not None:
            yield own, True
