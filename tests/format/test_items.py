"""The items of a generator as bytes: what is stored, what is given back, and what is refused."""

from __future__ import annotations

import builtins
import contextlib
import datetime as dt
import decimal
import enum
import functools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, Generic, NamedTuple, NewType, TypedDict, TypeVar

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, PrivateAttr, RootModel
from sse_starlette import JSONServerSentEvent, ServerSentEvent

from stream_cached.format.item_classes import ItemClasses
from stream_cached.format.items import (
    NO_ITEM,
    UnstorableItemError,
    decode_item,
    encode_item,
    is_of_items,
    media_type,
)
from stream_cached.format.validation import UnsoundError
from tests.support.sameness import same
from tests.support.selection import examples

PLAIN = ItemClasses(AsyncIterator[Any])
T = TypeVar("T")


def again(item: Any, classes: ItemClasses = PLAIN) -> Any:
    return decode_item(encode_item(item, classes), classes)


def classes_of(returned: Any) -> ItemClasses:
    return ItemClasses(returned)


# -- plain data ---------------------------------------------------------------------------------

ZONES = st.none() | st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(dt.timezone)
KEYS = st.text() | st.integers() | st.booleans() | st.none() | st.dates() | st.tuples(st.text())
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.binary().map(bytearray)
    | st.dates()
    | st.datetimes(timezones=ZONES)
    | st.times(timezones=ZONES)
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
ITEMS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)


@examples(300)
@given(ITEMS)
def test_an_item_comes_back_as_it_was(item: Any) -> None:
    assert same(again(item), item)


@pytest.mark.parametrize(
    "item",
    [
        2**63 - 1,
        2**64 - 1,
        2**64,
        -(2**63) - 1,
        float("inf"),
        "\ud800",
        dt.datetime(2024, 10, 27, 2, 30, fold=1),
        dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1), "CET")),
        {1: "a", (1, 2): [b"", ()]},
    ],
)
def test_an_unusual_item_comes_back_too(item: Any) -> None:
    given_back = again(item)
    assert same(given_back, item)
    if isinstance(item, dt.datetime):
        assert (given_back.fold, given_back.tzname()) == (item.fold, item.tzname())


def test_the_view_of_a_buffer_is_stored_as_it_is_now() -> None:
    buffer = bytearray(b"one")
    stored = encode_item(memoryview(buffer), PLAIN)
    buffer[:] = b"two"
    assert bytes(decode_item(stored, PLAIN)) == b"one"


def test_each_reader_is_given_items_of_its_own() -> None:
    stored = encode_item({"rows": [1]}, PLAIN)
    first = decode_item(stored, PLAIN)
    first["rows"].append(2)
    assert decode_item(stored, PLAIN) == {"rows": [1]}


# -- classes ------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "r"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int = 0


FIRST = Point(1)


@dataclass
class Leaf:
    at: dt.datetime
    colour: Colour = Colour.RED


@dataclass(frozen=True, slots=True)
class Tree:
    leaves: list[Leaf]
    inner: Tree | None = None
    point: Point = FIRST


@dataclass
class Page(Generic[T]):
    rows: list[T]
    seen: int = field(init=False, default=3)

    @functools.cached_property
    def costly(self) -> object:
        return object()


class Inner(BaseModel):
    price: decimal.Decimal


class Model(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str = "n"
    inner: Inner | None = None
    _secret: int = PrivateAttr(default=7)


class Names(RootModel[list[str]]):
    pass


class Row(TypedDict):
    point: Point


Alias = NewType("Alias", Leaf)
NOW = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
TREE = Tree([Leaf(NOW)], Tree([]))

KNOWN: list[tuple[Any, Any]] = [
    (AsyncIterator[Leaf], Leaf(NOW)),
    (Iterator[Leaf | int], Leaf(NOW)),
    (AsyncIterator[Alias], Leaf(NOW)),
    (AsyncIterator[Annotated[Tree, "a comment"]], TREE),
    (AsyncIterator[dict[str, list[Tree]]], {"trees": [TREE]}),
    (AsyncIterator[Page[Leaf]], Page([Leaf(NOW)])),
    (AsyncIterator[Colour], Colour.RED),
    (AsyncIterator[Rights], Rights.WRITE),
    (AsyncIterator[Row], {"point": Point(3, 4)}),
    (AsyncIterator[Model], Model(inner=Inner(price=decimal.Decimal("1.50")))),
    (AsyncIterator[Names], Names(["a", "b"])),
]


@pytest.mark.parametrize(("returned", "item"), KNOWN)
def test_a_class_that_the_annotation_names_is_made_again(returned: Any, item: Any) -> None:
    given_back = again(item, classes_of(returned))
    assert type(given_back) is type(item)
    assert given_back == item


def test_a_name_that_only_type_checkers_know_hides_no_other_class() -> None:
    unknown = make_dataclass("Item", [("a", "Unknown"), ("b", Leaf)])
    item = unknown(1, Leaf(NOW))
    classes = classes_of(AsyncIterator[unknown])  # type: ignore[valid-type]
    assert again(item, classes) == item


def test_a_model_keeps_what_was_set_what_is_extra_and_what_is_private() -> None:
    model = Model.model_validate({"name": "other", "more": [1]})
    model._secret = 9
    given_back = again(model, classes_of(AsyncIterator[Model]))
    assert given_back.model_fields_set == {"name", "more"}
    assert given_back.model_extra == {"more": [1]}
    assert given_back._secret == 9
    assert given_back.model_dump_json() == model.model_dump_json()


def test_a_value_that_was_computed_once_is_not_stored() -> None:
    page = Page([1])
    assert page.costly is page.costly
    given_back = again(page, classes_of(AsyncIterator[Page[int]]))
    assert (given_back.rows, given_back.seen) == ([1], 3)
    assert given_back.costly is not page.costly


def test_no_code_of_a_class_runs_where_an_item_is_made_again() -> None:
    ran: list[str] = []

    @dataclass
    class Loud:
        name: str

        def __post_init__(self) -> None:
            ran.append(self.name)

    classes = classes_of(AsyncIterator[Loud])
    stored = encode_item(Loud("once"), classes)
    assert decode_item(stored, classes).name == "once"
    assert ran == ["once"]


@pytest.mark.parametrize(
    "event",
    [
        ServerSentEvent({"n": 1}, event="e", id="1", retry=5, comment="c", sep="\n"),
        JSONServerSentEvent([1, "ä"], event="e"),
    ],
)
def test_an_event_of_sse_starlette_needs_no_annotation(event: Any) -> None:
    given_back = again(event)
    assert type(given_back) is type(event)
    assert given_back.encode() == event.encode()


def test_an_event_of_fastapi_needs_no_annotation() -> None:
    sse = pytest.importorskip("fastapi.sse", reason="this FastAPI has no events")
    event = sse.ServerSentEvent(data={"n": 1}, event="e", id="1")
    assert again(event) == event


# -- what can't be stored -----------------------------------------------------------------------


class Text(str):
    pass


ITSELF: list[Any] = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    ("item", "named"),
    [
        (object(), "builtins.object"),
        (Text("a"), f"{__name__}.Text"),
        ({"a"}, "builtins.set"),
        (Leaf(NOW), f"{__name__}.Leaf"),
        (Model(), f"{__name__}.Model"),
        (Colour.RED, f"{__name__}.Colour"),
        (msgpack.ExtType(1, b""), "ExtType"),
        ([1, {"a": object()}], "builtins.list, which holds builtins.object"),
        (ITSELF, "nested too deep"),
    ],
)
def test_an_item_that_can_not_be_made_again_is_refused_and_its_type_is_named(
    item: Any, named: str
) -> None:
    with pytest.raises(UnstorableItemError, match=named):
        encode_item(item, PLAIN)


def test_a_subclass_of_what_the_annotation_names_is_refused() -> None:
    class Other(Model):
        pass

    classes = classes_of(AsyncIterator[Model])
    with pytest.raises(UnstorableItemError, match="Other"):
        encode_item(Other(), classes)


def test_a_combination_of_flags_is_refused() -> None:
    with pytest.raises(UnstorableItemError, match="Rights"):
        encode_item(Rights.READ | Rights.WRITE, classes_of(AsyncIterator[Rights]))


def test_two_classes_of_one_name_are_refused() -> None:
    one, other = (make_dataclass("Twin", ["a"]) for _ in range(2))
    classes = classes_of(AsyncIterator[one | other])  # type: ignore[valid-type]
    with pytest.raises(UnstorableItemError, match="Twin"):
        encode_item(one(1), classes)


def test_what_a_class_raises_is_no_failure_of_the_generator() -> None:
    @dataclass
    class Broken:
        name: str

        def __getattribute__(self, name: str) -> Any:
            raise OSError("closed")

    with pytest.raises(UnstorableItemError, match="Broken"):
        encode_item(Broken("a"), classes_of(AsyncIterator[Broken]))


# -- bytes that are not trusted -----------------------------------------------------------------


def extension(code: int, tree: Any) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, msgpack.packb(tree)))  # type: ignore[no-any-return]


def nested(depth: int) -> bytes:
    payload = b"\xc0"
    for _ in range(depth):
        payload = msgpack.packb(msgpack.ExtType(2, b"\x91" + payload))
    return payload


UNSOUND = {
    "nothing": b"",
    "no item": NO_ITEM,
    "two items": b"\x01\x02",
    "half an item": encode_item("text", PLAIN)[:-1],
    "an array that is not there": b"\xdd\xff\xff\xff\xff",
    "a large array that is not there": b"\xdd\xff\xff\xff\xff" * 400,
    "an unknown extension": extension(99, 1),
    "a day that does not exist": extension(6, "2024-02-30"),
    "no number": extension(9, "many"),
    "half a UUID": extension(10, b"1234"),
    "a list as a key": b"\x81\x91\x01\x01",
    "a zone of days": extension(5, ["2024-01-01T00:00:00", 0, [[9, 0, 0]]]),
    "too deep": nested(200),
    "a class of no annotation": extension(11, ["os.system", ["ls"]]),
    "another class": extension(11, [f"{__name__}.Tree", {"leaves": []}]),
    "a missing field": extension(11, [f"{__name__}.Leaf", {"at": None}]),
    "a field of the class": extension(
        11, [f"{__name__}.Leaf", {"at": 1, "colour": 1, "__class__": 2}]
    ),
    "no fields": extension(11, [f"{__name__}.Leaf", 5]),
    "no member": extension(11, [f"{__name__}.Colour", "BLUE"]),
}


@pytest.mark.parametrize("data", UNSOUND.values(), ids=UNSOUND)
def test_bytes_that_are_no_item_are_unsound(data: bytes) -> None:
    with pytest.raises(UnsoundError):
        decode_item(data, classes_of(AsyncIterator[Leaf]))


@examples(300)
@given(st.binary(max_size=60))
def test_any_bytes_are_an_item_or_unsound(data: bytes) -> None:
    with contextlib.suppress(UnsoundError):
        decode_item(data, classes_of(AsyncIterator[Leaf]))


@pytest.mark.parametrize(
    "parts",
    [
        [{"name": "a"}, [], {}, None],
        [{"name": "a", "inner": None}, [1], {}, None],
        [{"name": "a", "inner": None}, [], None, None],
        [{"name": "a", "inner": None}, [], {}, {"_other": 1}],
        [{"name": "a", "inner": None}, [], {}],
    ],
)
def test_the_parts_of_another_model_are_unsound(parts: list[Any]) -> None:
    with pytest.raises(UnsoundError):
        decode_item(extension(11, [f"{__name__}.Model", parts]), classes_of(AsyncIterator[Model]))


def test_decoding_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = classes_of(AsyncIterator[Tree | Model])
    stored = [encode_item(item, classes) for item in (TREE, Model(), {"a": (NOW, b"")})]
    imported: list[str] = []
    real = builtins.__import__

    def counting(name: str, *args: Any, **kwargs: Any) -> Any:
        imported.append(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", counting)
    for data in [*stored, *UNSOUND.values()]:
        with contextlib.suppress(UnsoundError):
            decode_item(data, classes)
    monkeypatch.undo()
    assert imported == []


# -- the media type -----------------------------------------------------------------------------


def test_the_media_type_changes_with_the_classes_and_with_nothing_else() -> None:
    def type_of(*fields: Any) -> str:
        cls = make_dataclass("Item", fields)
        return media_type(classes_of(AsyncIterator[cls]))  # type: ignore[valid-type]

    assert type_of(("a", int)) == type_of(("a", Annotated[int, object()]))
    others = {type_of(), type_of(("a", int)), type_of(("a", str)), type_of(("b", int))}
    assert len(others) == 4
    assert all(map(is_of_items, others))
    assert not is_of_items("text/plain")
    assert not is_of_items(None)
    plain = [str, bytes, str | bytes, dict[str, int], dict[str, str], Any]
    types = {media_type(classes_of(AsyncIterator[each])) for each in plain}  # type: ignore[valid-type]
    assert len(types) == len(plain)
