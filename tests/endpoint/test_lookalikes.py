"""Arguments that look equal and are not: state beside their content, names that could be mixed up.

Where nothing says that two of them are equal they must not share an entry.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import functools
import inspect
import pathlib
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from stream_cached.endpoint.arguments import Arguments
from stream_cached.endpoint.taken import Keyed
from stream_cached.keys.canonical import NoCanonicalFormError, canonical


class Items(list[int]):
    note: str


class Pair(tuple[int, ...]):
    note: str


class Table(dict[str, int]):
    note: str


class Group(set[int]):
    note: str


class Bytes(bytearray):
    note: str


class Moment(datetime.datetime):
    note: str


class Day(datetime.date):
    note: str


class Hour(datetime.time):
    note: str


class Span(datetime.timedelta):
    note: str


class Id(uuid.UUID):
    __slots__ = ("__dict__",)
    __setattr__ = object.__setattr__  # type: ignore[assignment]


class Amount(decimal.Decimal):
    note: str


class Number(complex):
    note: str


class Name(str):
    note: str


class EntryRef(pathlib.PurePosixPath):
    note: str


@dataclasses.dataclass
class User:
    name: str


@dataclasses.dataclass
class Filter(dict[str, int]):
    field: str


MAKERS: list[Callable[[], Any]] = [
    lambda: Items([1, 2]),
    lambda: Pair((1, 2)),
    lambda: Table(a=1),
    lambda: Group({1, 2}),
    lambda: Bytes(b"x"),
    lambda: Moment(2020, 1, 1),
    lambda: Day(2020, 1, 1),
    lambda: Hour(12),
    lambda: Span(days=1),
    lambda: Id(int=1),
    lambda: Amount("1.0"),
    lambda: Number(1, 2),
    lambda: Name("name"),
    lambda: EntryRef("a/b"),
    lambda: User("name"),
]


def form(value: object) -> object:
    """The canonical form; for what has none, something that equals nothing else."""
    try:
        return canonical(value)
    except NoCanonicalFormError:
        return object()


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: type(make()).__name__)
def test_state_beside_the_content_tells_two_values_apart(make: Callable[[], Any]) -> None:
    one, other, third = make(), make(), make()
    assert canonical(one) == canonical(other)
    one.note, other.note = "admin", "guest"
    assert form(one) != form(other)
    assert form(one) != form(third)
    assert form([one]) != form([other])
    assert form({"key": one}) != form({"key": other})


def test_the_state_of_a_dataclass_is_part_of_its_form() -> None:
    # A dependency that adds to a user what its token allows.
    one, other = User("name"), User("name")
    one.scopes = other.scopes = ["read"]  # type: ignore[attr-defined]
    assert canonical(one) == canonical(other)
    other.scopes = ["read", "write"]  # type: ignore[attr-defined]
    assert canonical(one) != canonical(other)
    one.connection = object()  # type: ignore[attr-defined]
    with pytest.raises(NoCanonicalFormError):
        canonical(one)


def test_a_dataclass_that_is_a_container_does_not_lose_its_fields() -> None:
    assert form(Filter("a")) != form(Filter("b"))


def test_what_only_the_library_keeps_beside_the_content_does_not_count() -> None:
    class Row(NamedTuple):
        number: int

    for make in (
        lambda: Row(1),
        lambda: collections.OrderedDict(a=1),
        lambda: collections.Counter("aab"),
        lambda: collections.defaultdict(int, a=1),
    ):
        assert canonical(make()) == canonical(make())


def test_a_large_range_is_no_list() -> None:
    large = 10**18
    assert canonical(range(large)) != canonical(range(large - 1))
    assert canonical(range(0, 4, 2)) != canonical(range(0, 4, 3))
    assert canonical(range(0, 4, 2)) == canonical(range(0, 4, 2))
    assert canonical(range(3)) != canonical([0, 1, 2])


def positional_only(value: int, /, **others: int) -> None: ...


def any_number(*values: int, **others: int) -> None: ...


def keyword_only(*, value: int, **others: int) -> None: ...


def keywords(**others: int) -> None: ...


def arguments(function: Callable[..., None], *args: int, **kwargs: int) -> object:
    return Arguments(
        function,
        inspect.signature(function),
        noself=False,
        keyed=Keyed(),
        key_args={},
        key_ignore=frozenset(),
    ).forms(args, kwargs, {})


def test_a_keyword_with_the_name_of_a_positional_only_parameter_hides_nothing() -> None:
    one, other = arguments(positional_only, 1, value=3), arguments(positional_only, 2, value=3)
    assert one != other
    assert arguments(positional_only, 3) != arguments(positional_only, 3, value=3)


def test_no_keyword_can_be_taken_for_a_positional_argument() -> None:
    assert arguments(any_number, 1) != arguments(any_number, **{"*0": 1})
    assert arguments(any_number, 1, 2) != arguments(any_number, 1, **{"*1": 2})


def test_no_two_keywords_are_taken_for_one_another() -> None:
    names = ["value", "*value", "**value", "others", "**others", "*0", "**0", ""]
    forms = [arguments(keywords, **{name: 1}) for name in names]
    forms += [arguments(keyword_only, value=1, **{name: 1}) for name in names if name != "value"]
    assert all(one != other for index, one in enumerate(forms) for other in forms[:index])


def test_a_parameter_is_one_however_it_is_passed() -> None:
    def mixed(one: int, two: int = 2, *, three: int = 3) -> None: ...

    assert arguments(mixed, 1, 5, three=4) == arguments(mixed, 1, two=5, three=4)
    assert arguments(mixed, 1, 5) == arguments(mixed, one=1, two=5)
    assert arguments(mixed, 1, 5) != arguments(mixed, 5, 1)
    assert arguments(functools.partial(mixed, 1), two=5) == arguments(
        functools.partial(mixed, 1), two=5
    )
