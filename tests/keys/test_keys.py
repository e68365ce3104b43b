"""No two different calls share a key, however requests and arguments are made up; equal ones do."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import io
import ipaddress
import itertools
import math
import os
import pathlib
import re
import subprocess
import sys
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_cached.keys.canonical import NoCanonicalFormError, canonical
from stream_cached.keys.digest import digest
from stream_cached.keys.memcached import MEMCACHED_LIMIT, for_memcached
from stream_cached.keys.names import (
    holds_address,
    readable,
    revocation_key,
    segment_group,
    segment_key,
    shows_object,
    variant_key,
    version_key,
)
from stream_cached.keys.request import query_pairs, request_key
from tests.support.process import ROOT
from tests.support.sameness import same
from tests.support.selection import examples

GENERATION = bytes(range(16))


class Colour(enum.Enum):
    RED = 1
    BLUE = "1"


class Shade(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    ONE = "1"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Metres(int):
    pass


class Stamp(datetime.datetime):
    pass


class Name(str):
    __slots__ = ("label",)
    label: str


class Labelled(str):
    label = ""


class Point(collections.namedtuple("Point", "x y")):
    __slots__ = ()


@dataclasses.dataclass
class Box:
    width: object
    height: object = None


@dataclasses.dataclass(frozen=True, slots=True)
class Crate:
    width: object
    height: object = None


class Filter(pydantic.BaseModel):
    limit: int = 10
    words: list[str] = []
    inner: Filter | None = None


class Open(pydantic.BaseModel, extra="allow"):
    limit: int = 10


class Site(pydantic.BaseModel):
    url: pydantic.HttpUrl


class Attrs:
    """As a class of the attrs package, which tells its classes by this attribute."""

    __attrs_attrs__ = ()

    def __init__(self, size: object) -> None:
        self.size = size


def form_of(value: object) -> str:
    return digest(canonical(value))


#: All of them different, many of them alike.
DIFFERENT: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 10**30, -(10**30), 10**30 + 1, 10**5000, 10**5000 + 1),
    *(0.0, 1.0, -1.0, 0.1, math.inf, -math.inf, math.nan, 1e30, 5e-324),
    *("", "0", "1", "1.0", "True", "None", "null", " ", "a", "A", "ä", "a\u0308", "\x00", "\ud800"),
    *(b"", b"1", b"a", b"\xc3\xa4", b"\xed\xa0\x80", bytearray(b"1"), "y", "s", "i"),
    *(1j, 1 + 0j, decimal.Decimal("1"), decimal.Decimal("1.0"), decimal.Decimal("NaN")),
    *(Colour.RED, Colour.BLUE, Shade.RED, Level.ONE, Word.ONE),
    *(Access.READ, Access.WRITE, Access.READ | Access.WRITE, Access(0)),
    *(Metres(1), Name("1"), "enum", "Colour.RED", "RED"),
    *([], (), set(), frozenset(), {}, range(0), "[]", "{}", [[]], [()], ([],), [[], []], [[[]]]),
    *([None], [0], [1], ["1"], [1.0], [True], (1,), {1}, frozenset({1}), {1: None}),
    *([1, 2], [2, 1], [[1], 2], [[1, 2]], [[1], [2]], [1, [2]], {1, 2}, range(1, 3), range(10**20)),
    *(["a", "b"], ["a,b"], ["ab"], ["a", "", "b"], ["", "ab"], ["ab", ""], [["a", "b"]]),
    *({"a": 1}, {"a": "1"}, {"a": [1]}, {"a": None}, {"a": {"b": 1}}, {"a": {}, "b": 1}),
    *({1: "a"}, {"1": "a"}, {True: "a"}, {b"1": "a"}, {None: "a"}, {(1,): "a"}),
    *([("a", 1)], [["a", 1]], ("a", 1), ["a", 1], {"a": 1, "b": 2}, {"a": 2, "b": 1}),
    collections.OrderedDict(a=1, b=2),
    collections.OrderedDict(b=2, a=1),
    *(Point(1, 2), (1, 2), Point(2, 1)),
    *(
        datetime.date(2024, 1, 1),
        "2024-01-01",
        datetime.datetime(2024, 1, 1),
        "2024-01-01T00:00:00",
    ),
    datetime.datetime(2024, 1, 1, microsecond=1),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    datetime.datetime(2024, 1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(0), "Z")),
    datetime.datetime(2024, 1, 1, fold=1),
    Stamp(2024, 1, 1),
    *(datetime.time(0), datetime.time(0, fold=1), datetime.time(0, tzinfo=datetime.UTC)),
    *(
        datetime.timedelta(1),
        datetime.timedelta(0, 1),
        datetime.timedelta(0, 0, 1),
        "1 day, 0:00:00",
    ),
    *(uuid.UUID(int=1), uuid.UUID(int=2), str(uuid.UUID(int=1)), uuid.UUID(int=1).bytes),
    *(pathlib.PurePosixPath("/a"), pathlib.PureWindowsPath("/a"), "/a"),
    *(ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"), "127.0.0.1"),
    *(ipaddress.ip_network("127.0.0.1"), ipaddress.ip_interface("127.0.0.1"), "127.0.0.1/32"),
    *(Box(1), Crate(1), Box("1"), Box(1, 1), Box(Box(1)), {"width": 1, "height": None}),
    *(Filter(), Filter(limit=10), Filter(words=[]), Filter(limit=10, words=[]), Filter(limit=11)),
    *(Filter(words=["a", "b"]), Filter(words=["a,b"]), Filter(inner=Filter())),
    *(Filter(inner=Filter(limit=10)), {"limit": 10}, Open(), Open(limit=10)),
    *(Open.model_validate({"x": 1}), Open.model_validate({"x": "1"})),
    *(Site.model_validate({"url": "http://a/"}), Site.model_validate({"url": "http://a/b"})),
    *(pydantic.HttpUrl("http://a/"), "http://a/"),
    *(pydantic.SecretStr("1"), pydantic.SecretStr("2"), pydantic.SecretBytes(b"1")),
    *(re.compile("a"), re.compile("a", re.IGNORECASE), re.compile(b"a"), re.compile("b")),
    *(zoneinfo.ZoneInfo("Europe/Berlin"), zoneinfo.ZoneInfo("Europe/Paris"), "Europe/Berlin"),
    *(datetime.UTC, datetime.timezone(datetime.timedelta(0), "Z"), "UTC"),
    *(datetime.timezone(datetime.timedelta(hours=1)), datetime.timezone.min, datetime.timezone.max),
    *(int, str, len, os.path.join, form_of, "builtins.len"),
    *(Attrs(1), Attrs("1"), Attrs(2)),
]


def test_values_that_look_alike_have_forms_of_their_own() -> None:
    forms = list(map(form_of, DIFFERENT))
    shared = [(i, forms.index(form)) for i, form in enumerate(forms) if forms.index(form) != i]
    assert shared == []


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"k": v}, lambda v: Box(v)])
def test_values_that_look_alike_are_told_apart_inside_others(wrap: Callable[[Any], Any]) -> None:
    assert len({form_of(wrap(value)) for value in DIFFERENT}) == len(DIFFERENT)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({3, 1, 2}, {2, 3, 1}),
        ({"x", "y", "z", "w"}, {"w", "z", "y", "x"}),
        (frozenset({(1, 2), (3, 4)}), frozenset({(3, 4), (1, 2)})),
        (range(0, 10, 3), range(0, 12, 3)),
        (bytearray(b"ab"), memoryview(b"ab")),
        (Filter(limit=3, words=["a"]), Filter(words=["a"], limit=3)),
        (Box([1], {"a": 1}), Box(height={"a": 1}, width=[1])),
        (uuid.UUID(int=5), uuid.UUID(hex=uuid.UUID(int=5).hex.upper())),
        (Colour(1), Colour["RED"]),
        (math.nan, float("nan")),
    ],
)
def test_equal_values_have_one_form(one: object, other: object) -> None:
    assert form_of(one) == form_of(other)


def test_which_fields_of_a_model_were_set_counts() -> None:
    assert Filter().model_dump() == Filter(limit=10).model_dump()
    assert form_of(Filter()) != form_of(Filter(limit=10))


def test_zones_that_agree_at_one_moment_are_told_apart() -> None:
    try:
        zones = [zoneinfo.ZoneInfo(name) for name in ("Europe/Berlin", "Europe/Paris")]
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("no time zone database")
    assert len({form_of(datetime.datetime(2024, 1, 1, tzinfo=zone)) for zone in zones}) == 2


def _cyclic() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def _cyclic_dict() -> dict[str, Any]:
    cycle: dict[str, Any] = {}
    cycle["self"] = [cycle]
    return cycle


def _labelled() -> Labelled:
    value = Labelled("a")
    value.label = "b"
    return value


def _zone_file() -> bytes:
    """A file of a time zone that is UTC (RFC 8536)."""
    header = b"TZif\0" + bytes(15) + bytes(16) + (1).to_bytes(4, "big") + (4).to_bytes(4, "big")
    return header + bytes(6) + b"UTC\0"


WITHOUT_FORM = {
    "an object": object(),
    "a function that no module has": _cyclic.__get__(0),
    "a lambda": lambda: None,
    "a class that no module has": type("Nowhere", (), {}),
    "a module": os,
    "a generator": (letter for letter in "ab"),
    "an iterator": iter([]),
    "a time zone without a name": zoneinfo.ZoneInfo.from_file(io.BytesIO(_zone_file())),
    "a str with a state of its own": _labelled(),
    "a cyclic list": _cyclic(),
    "a cyclic dict": _cyclic_dict(),
    "an object in a list": [object()],
    "an object in a dict": {"a": object()},
    "an object as a key": {object(): 1},
    "an object in a set": {object()},
    "an object in a dataclass": Box(object()),
}


@pytest.mark.parametrize("value", WITHOUT_FORM.values(), ids=WITHOUT_FORM)
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(NoCanonicalFormError) as refused:
        canonical(value)
    assert "0x" not in str(refused.value)
    assert "s3cret" not in str(refused.value)


# -- any values -------------------------------------------------------------------------------

texts = st.text(st.characters(codec=None), max_size=8) | st.sampled_from(["", "a", "a,b", "1", ":"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 2)
    | st.sampled_from([0.0, 1.0, 2.0, -1.0])
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=4)
)
keys_of_dicts = st.none() | st.booleans() | st.integers(-2, 2) | texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys_of_dicts, inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values, values)
@examples(400)
def test_two_values_share_a_form_only_if_they_are_the_same(one: Any, other: Any) -> None:
    assert (form_of(one) == form_of(other)) == same(one, other)


@given(st.dictionaries(keys_of_dicts, values, max_size=4), st.randoms())
@settings(deadline=None)
def test_the_order_of_a_dict_counts(value: dict[Any, Any], random: Any) -> None:
    """An endpoint may show it: columns, sort keys."""
    items = list(value.items())
    random.shuffle(items)
    is_same = [name for name, _ in items] == list(value)
    assert (form_of(dict(items)) == form_of(value)) == is_same


def test_a_time_zone_without_a_name_has_no_form() -> None:
    class Zone(datetime.tzinfo):
        def utcoffset(self, moment: datetime.datetime | None) -> datetime.timedelta:
            return datetime.timedelta(0)

        def tzname(self, moment: datetime.datetime | None) -> str:
            return "UTC"

        def dst(self, moment: datetime.datetime | None) -> datetime.timedelta:
            return datetime.timedelta(0)

    with pytest.raises(NoCanonicalFormError):
        canonical(datetime.datetime(2024, 1, 1, tzinfo=Zone()))


def test_a_time_zone_that_pydantic_has_parsed_has_a_form() -> None:
    parse = pydantic.TypeAdapter(datetime.datetime).validate_python
    one, other = parse("2024-01-01T00:00:00+02:00"), parse("2024-01-01T00:00:00+03:00")
    assert form_of(one) == form_of(parse("2024-01-01T00:00:00+02:00"))
    assert form_of(one) != form_of(other)


# -- requests ---------------------------------------------------------------------------------

REQUEST: dict[str, Any] = {
    "endpoint": "app.report",
    "method": "GET",
    "scheme": "http",
    "host": [b"example.org"],
    "path": b"/report",
    "query": b"",
    "body": None,
    "arguments": {},
    "headers": {},
}


def key_of(**parts: Any) -> str:
    whole = {**REQUEST, **parts}
    path = whole["path"]
    whole["path"] = [path, path.decode("latin-1"), ""]
    whole["arguments"] = {name: canonical(value) for name, value in whole["arguments"].items()}
    return request_key(whole.pop("endpoint"), **whole)


#: Text in which every delimiter that a key might use stands.
snippets = st.text("ab:;=&,/?%#| \x00\n'\"[]{}é1", max_size=6)
blobs = snippets.map(lambda text: text.encode("latin-1"))
requests = st.fixed_dictionaries(
    {
        "endpoint": snippets,
        "method": st.sampled_from(["GET", "POST"]),
        "scheme": st.sampled_from(["http", "https"]),
        "host": st.lists(blobs, max_size=2),
        "path": blobs,
        "body": st.none() | snippets,
        "arguments": st.dictionaries(snippets, scalars, max_size=2),
        "headers": st.dictionaries(snippets, blobs | st.lists(blobs, max_size=2), max_size=2),
    }
)


@given(requests, requests)
@examples(400)
def test_two_requests_share_a_key_only_if_they_are_the_same(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    for request in (one, other):
        request["host"] = [value.lower() for value in request["host"]]
    assert (key_of(**one) == key_of(**other)) == same(in_order(one), in_order(other))


def in_order(request: dict[str, Any]) -> list[Any]:
    """Return the parts of a request, of which headers and arguments have no order."""
    parts = [request[name] for name in sorted(request)]
    return [sorted(part.items()) if isinstance(part, dict) else part for part in parts]


@given(requests, st.data())
@settings(deadline=None)
def test_a_request_with_one_part_of_another_has_another_key(
    one: dict[str, Any], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(one)))
    other = {**one, name: data.draw(requests)[name]}
    assert (key_of(**one) == key_of(**other)) == (
        same(one[name], other[name])
        or (name == "host" and [v.lower() for v in one[name]] == [v.lower() for v in other[name]])
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"headers": {"a": [b"1"]}}, {"headers": {"a": b"1"}}),
        ({"headers": {"a": [b"1", b"2"]}}, {"headers": {"a": [b"1, 2"]}}),
        ({"headers": {"a": [b"1"], "b": []}}, {"headers": {"a": [], "b": [b"1"]}}),
        ({"headers": {"a": []}}, {"headers": {"a": [b""]}}),
        ({"headers": {"a": []}}, {"headers": {}}),
        ({"arguments": {"a": "1"}}, {"headers": {"a": "1"}}),
        ({"arguments": {"a": 1}}, {"arguments": {"a": "1"}}),
        ({"arguments": {"a": None}}, {"arguments": {}}),
        ({"arguments": {"a": "1", "b": ""}}, {"arguments": {"a": "", "b": "1"}}),
        ({"path": b"/a?b"}, {"path": b"/a", "query": b"b"}),
        ({"path": b"/a%2Fb"}, {"path": b"/a/b"}),
        ({"path": b"/A"}, {"path": b"/a"}),
        ({"host": [b"a"]}, {"host": [b"b"]}),
        ({"host": []}, {"host": [b""]}),
        ({"body": ""}, {"body": None}),
        ({"scheme": "https"}, {}),
        ({"method": "POST"}, {}),
        ({"query": b"a"}, {"query": b"a="}),
        ({"query": b"a=1"}, {"query": b"A=1"}),
        ({"query": b"a=1&b=2"}, {"query": b"a=1%26b=2"}),
        ({"query": b"a=b=c"}, {"query": b"a%3Db=c"}),
    ],
)
def test_requests_that_look_alike_have_keys_of_their_own(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert key_of(**one) != key_of(**other)


def test_a_host_is_one_however_it_is_capitalised() -> None:
    assert key_of(host=[b"Example.ORG"]) == key_of(host=[b"example.org"])


# -- the query --------------------------------------------------------------------------------

names = st.sampled_from([b"a", b"%61", b"b", b"a+b", b"a%20b", b"", b"%26", b"%3D", b"\xff"])
pairs = st.lists(
    st.tuples(names, st.none() | st.sampled_from([b"", b"1", b"2", b"1,2", b"=", b"%26", b"a=1"])),
    max_size=5,
)


def query_of(parts: list[tuple[bytes, bytes | None]]) -> bytes:
    return b"&".join(name if value is None else name + b"=" + value for name, value in parts)


def meaning(query: bytes) -> dict[str, list[str]]:
    """What an application sees: the values of each name, in their order."""
    seen = collections.defaultdict(list)
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        seen[name].append(value)
    return dict(seen)


@given(pairs, pairs)
@example([(b"a", b"1"), (b"%61", b"2")], [(b"%61", b"2"), (b"a", b"1")])
@examples(400)
def test_queries_that_mean_something_else_never_share_a_key(
    one: list[tuple[bytes, bytes | None]], other: list[tuple[bytes, bytes | None]]
) -> None:
    queries = query_of(one), query_of(other)
    if meaning(queries[0]) != meaning(queries[1]):
        assert key_of(query=queries[0]) != key_of(query=queries[1])


@given(pairs, st.randoms())
@settings(deadline=None)
def test_the_order_of_different_names_does_not_count(
    parts: list[tuple[bytes, bytes | None]], random: Any
) -> None:
    def name_of(part: tuple[bytes, bytes | None]) -> str:
        return next(iter(meaning(part[0] + b"=x")), "")

    parts = [part for part in parts if query_of([part])]
    queues = {
        name: [part for part in parts if name_of(part) == name] for name in map(name_of, parts)
    }
    order = list(map(name_of, parts))
    random.shuffle(order)
    shuffled = [queues[name].pop(0) for name in order]
    assert key_of(query=query_of(shuffled)) == key_of(query=query_of(parts))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", []),
        (b"&&", []),
        (b"b=1&a=2", [(b"a", b"2"), (b"b", b"1")]),
        (b"a=2&b&a=1&a=", [(b"a", b"2"), (b"a", b"1"), (b"a", b""), (b"b", None)]),
        (b"%61=2&a=1", [(b"%61", b"2"), (b"a", b"1")]),
        (b"b=1&=2&=", [(b"", b"2"), (b"", b""), (b"b", b"1")]),
    ],
)
def test_a_query_is_raw_pairs_by_name(
    query: bytes, expected: list[tuple[bytes, bytes | None]]
) -> None:
    assert query_pairs(query) == expected


def test_the_order_of_one_names_values_counts_however_the_name_is_encoded() -> None:
    spellings = (b"a b", b"a+b", b"a%20b")
    for one, other in itertools.product(spellings, repeat=2):
        first = key_of(query=one + b"=1&" + other + b"=2")
        assert first != key_of(query=other + b"=2&" + one + b"=1")


# -- another process --------------------------------------------------------------------------

_PROGRAM = """
from tests.keys.test_keys import SHARED, form_of, key_of
print(*map(form_of, SHARED), key_of(arguments={"words": SHARED[0]}, query=b"b=1&a=2&a=1"))
"""

#: What is made of sets and dicts, whose order depends on PYTHONHASHSEED.
SHARED: list[Any] = [
    {f"word {number}" for number in range(50)},
    frozenset((f"a{number}", number) for number in range(50)),
    {f"key {number}": {f"{number}"} for number in range(20)},
    Filter(limit=3, words=["a"], inner=Filter()),
    Open.model_validate({"x": 1, "limit": 4}),
    Box({"a", "b", "c"}, Crate(frozenset("xyz"))),
    Access.READ | Access.WRITE,
    Word.ONE,
    uuid.UUID(int=7),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
]


@pytest.mark.full
def test_another_process_with_another_hash_seed_makes_the_same_keys() -> None:
    def run(seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout

    here = [*map(form_of, SHARED), key_of(arguments={"words": SHARED[0]}, query=b"b=1&a=2&a=1")]
    assert run("1").split(maxsplit=len(SHARED)) == run("2").split(maxsplit=len(SHARED))
    assert run("1").split() == here


# -- the text of a key ------------------------------------------------------------------------


def test_values_never_stand_in_the_text_of_a_key() -> None:
    secret = "s3cret"
    key = key_of(
        path=f"/users/{secret}".encode(),
        query=f"token={secret}".encode(),
        host=[f"{secret}.example.org".encode()],
        body=secret,
        arguments={"password": secret, "inner": {secret: [secret]}, "model": Open(x=secret)},  # type: ignore[call-arg]
        headers={"authorization": [secret.encode()], "cookie": secret.encode()},
    )
    assert secret not in key
    assert re.fullmatch(r"app\.report:[0-9a-f]{32}", key)
    assert secret not in variant_key(key, GENERATION, digest([["cookie", [secret.encode()]]]))


@given(st.text(max_size=100), st.binary(max_size=100))
@settings(deadline=None)
def test_a_key_is_short_printable_ascii(endpoint: str, path: bytes) -> None:
    key = key_of(endpoint=endpoint.encode("ascii", "ignore").decode(), path=b"/" + path)
    assert re.fullmatch(r"[A-Za-z0-9._/:-]{1,180}", key)
    assert for_memcached(key) == key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("app.views.report", "app.views.report"),
        ("a b.<locals>.ä?x=1", "a_b._locals_._x_1"),
        ("x" * 100 + ".report", "x" * 65 + ".report"),
    ],
)
def test_a_readable_name_keeps_what_tells_most(text: str, expected: str) -> None:
    assert readable(text) == expected


def test_all_keys_of_an_entry_differ() -> None:
    key = key_of()
    others = [
        *(key, revocation_key(key), version_key("app.report"), version_key("app.other")),
        *(segment_key(key, GENERATION, index) for index in (0, 1, 10)),
        segment_key(key, bytes(16), 0),
        *(variant_key(key, GENERATION, digest(name)) for name in ("a", "b")),
        variant_key(key, bytes(16), digest("a")),
    ]
    assert len(set(others)) == len(others)


def test_the_segments_of_one_run_are_a_group_and_nothing_else_is() -> None:
    key = key_of()
    groups = {segment_group(segment_key(key, GENERATION, index)) for index in (0, 1, 10)}
    assert len(groups) == 1
    assert groups != {segment_group(segment_key(key, bytes(16), 0))}
    for other in (key, "", "a:1", version_key("a"), variant_key(key, GENERATION, digest("a"))):
        assert segment_group(other) is None
    odd = "any\nkey of a user's own"
    assert segment_group(segment_key(odd, GENERATION, 3)) == f"{odd}:{GENERATION.hex()}"


# -- memcached --------------------------------------------------------------------------------


def is_valid_for_memcached(key: str, overhead: int = 0) -> bool:
    return 0 <= len(key) + overhead <= MEMCACHED_LIMIT and re.search(r"[^\x21-\x7e]", key) is None


any_key = st.text(st.characters(codec=None), max_size=300) | st.text("ab :#é", max_size=4).map(
    lambda text: text * 70
)


@given(any_key, any_key, st.integers(0, 100))
@example("a b", "a_b", 0)
@example("a" * 250, "a" * 251, 0)
@example("é", "e", 0)
@settings(deadline=None)
def test_any_key_is_made_fit_for_memcached_and_stays_distinct(
    one: str, other: str, overhead: int
) -> None:
    made = [for_memcached(key, overhead) for key in (one, other)]
    assert all(is_valid_for_memcached(key, overhead) for key in made)
    assert (made[0] == made[1]) == (one == other)


@pytest.mark.parametrize("key", ["a" * 251, "a key", "schlüssel", "a\nb", "\ud800"])
def test_nobody_can_name_the_key_that_another_is_shortened_to(key: str) -> None:
    assert for_memcached(for_memcached(key)) != for_memcached(key)


def test_a_key_that_fits_stays_as_it_is() -> None:
    for key in ("a", "a" * MEMCACHED_LIMIT, "!~", key_of(), segment_key(key_of(), GENERATION, 9)):
        assert for_memcached(key) == key
    assert for_memcached("a" * MEMCACHED_LIMIT, 1) != "a" * MEMCACHED_LIMIT


# -- addresses --------------------------------------------------------------------------------


def test_the_address_of_an_object_is_seen_in_a_key() -> None:
    assert holds_address(f"app.report({object()!r},)")
    assert holds_address(repr(lambda: None))
    for key in ("app.report('at home',)", "at 0x", "0xff", "what 0x12", "/report?at=0x1"):
        assert not holds_address(key)


def test_the_text_of_an_object_is_seen_in_a_text() -> None:
    for value in (object(), [object()], lambda: None, asyncio.Lock(), "".join, io.BytesIO().read):
        assert shows_object(f"a text with {value!r}")
    for text in (
        "crash at 0x7f3c5e8b9d10",
        "<b>0x7f3c5e8b9d10</b>",
        "< at 0x1>",
        "a at 0x7f3c5e8b9d10>",
        "at home",
    ):
        assert not shows_object(text)


# -- what a subclass adds, or says of itself ------------------------------------------------------


class Masked(str):
    def __str__(self) -> str:
        return "***"


class Rounded(decimal.Decimal):
    def __repr__(self) -> str:
        return "1"


class Undated(datetime.date):
    def isoformat(self) -> str:
        return "today"


class Shy(dict[str, int]):
    def items(self) -> Any:
        return []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Masked("a"), Masked("b")),
        (Rounded("1.001"), Rounded("1.004")),
        (Undated(2024, 1, 1), Undated(2024, 1, 2)),
        (Shy(a=1), Shy(a=2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_what_it_holds_and_not_what_it_says(one: object, other: object) -> None:
    assert form_of(one) != form_of(other)


class Tagged(ipaddress.IPv4Address):
    tag: str


@dataclasses.dataclass
class Lazy:
    """As a class of an ORM is: what is not there yet would be loaded."""

    id: int = 1

    def __getattribute__(self, name: str) -> Any:
        if name == "orders":
            raise RuntimeError("the session is closed")
        return super().__getattribute__(name)


@dataclasses.dataclass(slots=True)
class Slotted:
    width: int


class Thing:
    __slots__ = ("owner",)

    def __init__(self) -> None:
        self.owner = ""


@dataclasses.dataclass(slots=True)
class OwnedThing(Thing):
    width: int


def test_a_state_beside_the_content_counts_or_is_refused() -> None:
    address = Tagged("127.0.0.1")
    assert canonical(address)
    address.tag = "alice"
    name = Name("a")
    name.label = "Dr"
    for value in (address, name):
        with pytest.raises(NoCanonicalFormError):
            canonical(value)
    one, other = OwnedThing(1), OwnedThing(1)
    one.owner, other.owner = "alice", "bob"  # type: ignore[misc]
    assert form_of(one) != form_of(other)
    assert form_of(Slotted(1)) != form_of(Slotted(2))


def test_nothing_is_asked_of_a_value_that_may_have_to_load_it() -> None:
    value = Lazy()
    value.__dataclass_fields__["orders"] = value.__dataclass_fields__["id"]
    try:
        assert canonical(value)
    finally:
        del value.__dataclass_fields__["orders"]


class Settings(pydantic.BaseModel):
    title: str = ""

    @functools.cached_property
    def engine(self) -> object:
        return object()

    @functools.cached_property
    def owner(self) -> str:
        return "nobody"


def test_what_a_model_has_worked_out_from_itself_does_not_count() -> None:
    fresh, used = Settings(title="a"), Settings(title="a")
    assert used.engine
    assert form_of(fresh) == form_of(used)


def test_what_is_set_from_outside_counts_also_under_the_name_of_a_cached_property() -> None:
    one, other = Settings(title="a"), Settings(title="a")
    for settings_, name in ((one, "alice"), (other, "bob")):
        settings_.__dict__["owner"] = name
    assert form_of(one) != form_of(other)
