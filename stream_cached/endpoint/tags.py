"""The tags of a call, and the arguments by which its entries are invalidated."""

from __future__ import annotations

import datetime
import decimal
import enum
import inspect
import string
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from starlette.responses import Response

from stream_cached.checks import require
from stream_cached.endpoint.signatures import annotation_of, signature_of
from stream_cached.errors import ConfigurationError
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.canonical import canonical
from stream_cached.keys.digest import class_name, digest
from stream_cached.keys.names import argument_key, tag_key

#: Templates of tags, or a function of the arguments, or of the response, that returns tags.
Tags = Sequence[str] | Callable[..., Iterable[str]]

#: Types whose text is the same for equal values.
_TEXTS = (str, int, float, decimal.Decimal, uuid.UUID, datetime.date, type(None))


#: What stands as a tag for all tags: each invalidation of one replaces its version first.
ANY = "\0any"

#: What stands as a tag for all entries of a `StreamCache`; no tag of a user begins like this.
NAMESPACE = "\0namespace"


class ResponseTags:
    """The tags that only the answer to one call tells."""

    def __init__(self, texts: Callable[[Any], Iterable[str]], key_of: Callable[[str], str]) -> None:
        self._texts = texts
        self._key_of = key_of
        self.named: Sequence[str] = ()
        """The tags of the last answer."""

    def __call__(self, response: Any) -> Sequence[str]:
        """
        Return the keys of the versions of an answer's tags.

        Raises:
            BypassError: The function has failed.
        """
        self.named = tuple(dict.fromkeys(self._texts(response)))
        return tuple(map(self._key_of, self.named))


class Tagging:
    """
    The tags of one function.

    Args:
        name: The name of the function.
        signature: Its signature.
        tags: Templates such as `"item:{item}"`, or a function of the arguments, or of the response.
        invalidate_by: The names of arguments by which entries are invalidated.
        has_namespace: Whether entries are invalidated with all others of their `StreamCache`, too.
        key_of: Returns the key of a tag's version; None for one that a whole namespace shares.

    Raises:
        ConfigurationError: The function has no such parameter.
    """

    def __init__(
        self,
        name: str,
        signature: inspect.Signature,
        tags: Tags,
        invalidate_by: Collection[str],
        *,
        has_namespace: bool = False,
        key_of: Callable[[str], str] | None = None,
    ) -> None:
        self._tag_key = key_of or tag_key_of
        self._always = (tag_key_of(NAMESPACE),) if has_namespace else ()
        self._name = name
        self._signature = signature
        own = tags if callable(tags) else None
        #: The parameter that takes the response, if there is one, and those that take arguments.
        self._response, self._taken = _of_response(own, signature)
        self._function = None if self._response else own
        self._of_response = own if self._response else None
        self._templates = () if callable(tags) else tuple(tags)
        self._named = tuple(sorted(invalidate_by))
        by_arguments = self._templates or self._function or self._named
        self.always = None if by_arguments else self._always
        """The keys of the versions of each call; None if they depend on its arguments."""
        for template in self._templates:
            for field in _fields(template):
                self._check(f"tags={template!r}", field.partition(".")[0])
        for each in self._named:
            self._check("invalidate_by=", each)
        for each in self._taken:
            self._check("tags=", each)

    def _check(self, option: str, parameter: str) -> None:
        names = self._signature.parameters
        require(
            parameter in names,
            f"{option} names {parameter!r}, but {self._name} takes {', '.join(names) or 'nothing'}",
        )

    def versions(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, ...]:
        """
        Return the keys of the versions that the entry of a call depends on.

        Raises:
            BypassError: An argument is of no type that a tag can have, or the function has failed.
        """
        if self.always is not None:
            return self.always
        try:
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = bound.arguments
            keys = [*self._always, *map(self._tag_key, self._tags(args, kwargs, values))]
            keys += [self._key_of(name, values[name]) for name in self._named]
            return tuple(dict.fromkeys(keys))
        except BypassError:
            raise
        # A user's function, or the class of an argument, may raise anything.
        except Exception as exc:
            subject = f"tags= or invalidate_by= raised {type(exc).__name__}"
            raise BypassError(Finding(NotCached.FUNCTION, subject)) from exc

    def _tags(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], values: Mapping[str, Any]
    ) -> Iterable[str]:
        if self._function is None:
            return [_formatted(template, values) for template in self._templates]
        return texts_of(self._function(*args, **kwargs))

    def of_response(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ResponseTags | None:
        """Return what gives the tags that only the answer to a call tells; None without any."""
        function = self._of_response
        if function is None:
            return None

        def texts(response: Any) -> list[str]:
            try:
                bound = self._signature.bind(*args, **kwargs)
                bound.apply_defaults()
                given = {name: bound.arguments[name] for name in self._taken}
                return texts_of(function(**{str(self._response): response}, **given))
            except BypassError:
                raise
            # A user's function may raise anything.
            except Exception as exc:
                subject = f"tags= raised {type(exc).__name__}"
                raise BypassError(Finding(NotCached.FUNCTION, subject)) from exc

        return ResponseTags(texts, self._tag_key)

    def _key_of(self, name: str, value: object) -> str:
        return argument_key(self._name, name, digest(canonical(value)))

    def named(self, arguments: Mapping[str, Any]) -> list[str]:
        """
        Return the keys of the versions to replace for one argument.

        Raises:
            ConfigurationError: It is not one by which entries can be invalidated.
        """
        require(
            len(arguments) == 1,
            f"invalidate() takes one argument of {self._name}: for a combination, pass tags= to "
            "its decorator, and invalidate the tag",
        )
        ((name, value),) = arguments.items()
        keys = [
            self._tag_key(_formatted(template, arguments))
            for template in self._templates
            if _fields(template) == [name]
        ]
        if name in self._named:
            keys.append(self._key_of(name, value))
        if not keys:
            self._check("invalidate()", name)
            raise ConfigurationError(
                f"{self._name} has no entries by {name}: pass "
                f'invalidate_by=("{name}",), or tags=("{name}:{{{name}}}",), to its decorator'
            )
        return keys


def texts_of(given: Iterable[str]) -> list[str]:
    """Return what a function for tags has returned. Raise `BypassError` if that is no tags."""
    tags: list[Any] = [given] if isinstance(given, bytes) else list(given)
    if isinstance(given, str) or not all(isinstance(tag, str) for tag in tags):
        raise BypassError(
            Finding(NotCached.FUNCTION, "tags= returned no list of str", 'return ["item:7"]')
        )
    return tags


def _of_response(function: Any, signature: inspect.Signature) -> tuple[str, tuple[str, ...]]:
    """
    Return the parameter by which a function for tags takes the response, and its other ones.

    It is called `response`, or annotated as one, and the decorated function has none of that name:
    else the function takes the arguments of a call.
    """
    if function is None:
        return "", ()
    try:
        parameters = signature_of(function).parameters
    except (TypeError, ValueError):
        # A function in C may have no signature.
        return "", ()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    by_name = [name for name, each in parameters.items() if each.kind in kinds]
    found = [n for n in by_name if n not in signature.parameters and _takes_response(parameters[n])]
    if len(found) != 1:
        return "", ()
    return found[0], tuple(name for name in by_name if name != found[0])


def _takes_response(parameter: inspect.Parameter) -> bool:
    annotation = annotation_of(parameter)
    is_response = inspect.isclass(annotation) and issubclass(annotation, Response)
    return parameter.name == "response" or is_response


def tag_key_of(tag: str) -> str:
    """Return the key of a tag's version, which all endpoints of a namespace share."""
    return tag_key("", tag)


def check_tags(name: str, tags: Any) -> Tags:
    """Return the value of the option `tags`."""
    if callable(tags):
        return tags  # type: ignore[no-any-return]
    require(
        isinstance(tags, list | tuple) and all(isinstance(tag, str) and tag for tag in tags),
        f'{name}={tags!r}: pass a tuple of texts, ("item:{{item}}",), or a function of the '
        "arguments or of the response",
    )
    for tag in tags:
        _fields(tag)
    return tuple(tags)


def _fields(template: str) -> list[str]:
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as exc:
        raise ConfigurationError(f"tags={template!r}: {exc}") from exc
    fields = [field for _, field, _, _ in parsed if field is not None]
    plain = all(not (spec or conversion) for _, _, spec, conversion in parsed)
    require(
        plain and all(part.isidentifier() for field in fields for part in field.split(".")),
        f"tags={template!r}: name parameters of the function, or attributes of them, as "
        '"item:{item}" or "user:{user.id}"',
    )
    return fields


def _formatted(template: str, values: Mapping[str, Any]) -> str:
    text = ""
    for literal, field, _, _ in string.Formatter().parse(template):
        text += literal
        if field is not None:
            name, *attributes = field.split(".")
            value = values[name]
            for attribute in attributes:
                value = getattr(value, attribute)
            text += _text(field, value)
    return text


def _text(field: str, value: object) -> str:
    if isinstance(value, enum.Enum):
        value = value.value
    if not isinstance(value, _TEXTS):
        raise BypassError(
            Finding(
                NotCached.FUNCTION,
                f"tags= has {{{field}}}, which is of type {class_name(value)}",
                f"name an attribute of it that is a str or a number, as {{{field}.id}}",
            )
        )
    return str(value)
