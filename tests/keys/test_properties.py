"""Keys of whole calls: what differs never shares a key, what does not differ always does."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import string
import subprocess
import sys
from collections import defaultdict
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote

import pytest
from fastapi import Cookie, Depends, FastAPI, Header
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request, cookie_parser
from starlette.responses import PlainTextResponse, Response

from stream_cached import stream_cached
from tests.support.asgi import Exchange
from tests.support.process import ROOT
from tests.support.sameness import same
from tests.support.selection import examples

#: Only the keys for it are made. In memory, a key has the number of its application in the process.
CACHE = "redis://localhost?namespace=keys"


def shows_its_key(endpoint: Any) -> Any:
    """Instead of the endpoint: answers with the key of the very call that FastAPI makes."""

    @functools.wraps(endpoint)
    async def wrapper(*args: Any, **kwargs: Any) -> Response:
        return PlainTextResponse(await endpoint.cache_key(*args, **kwargs))

    return wrapper


def made_of_cookie(account: Annotated[str, Cookie()] = "") -> tuple[str, str]:
    return "account", account


app = FastAPI()


@app.get("/{rest:path}")
@shows_its_key
@stream_cached(ttl=60, cache=CACHE, vary=("X-Keyed", "X-Other"))
async def endpoint(
    rest: str,
    account: Annotated[tuple[str, str], Depends(made_of_cookie)],
    theme: Annotated[str | None, Cookie()] = None,
    x_parameter: Annotated[str | None, Header()] = None,
    size: int = 1,
) -> Response:
    return PlainTextResponse("rows")


@stream_cached(ttl=60, cache=CACHE, vary=("X-Keyed",))
async def direct(
    request: Request, one: Any = None, other: Any = None, *items: Any, named: Any = "", **more: Any
) -> Response:
    return PlainTextResponse("rows")


Call = dict[str, Any]

#: A call by default: what is made up replaces some of it.
CALL: Call = {
    "host": "example.org",
    "path": "/",
    "query": b"",
    "keyed": [],
    "other": [],
    "parameter": None,
    "theme": None,
    "account": None,
}


def scope_of(call: Call) -> dict[str, Any]:
    cookies = [f"{name}={call[name]}" for name in ("theme", "account") if call[name] is not None]
    headers = [
        (b"host", call["host"].encode()),
        *((b"x-keyed", value) for value in call["keyed"]),
        *((b"x-other", value) for value in call["other"]),
    ]
    if call["parameter"] is not None:
        headers.append((b"x-parameter", call["parameter"].encode("latin-1")))
    if cookies:
        headers.append((b"cookie", "; ".join(cookies).encode("latin-1")))
    return {
        **Exchange(Starlette()).scope,
        "path": call["path"],
        "raw_path": quote(call["path"], safe="/").encode(),
        "query_string": call["query"],
        "headers": headers,
    }


async def _key(scope: dict[str, Any]) -> str:
    exchange = Exchange(app)
    exchange.scope = scope
    await exchange.run()
    assert exchange.sent[0]["status"] == 200, exchange.body
    return exchange.body.decode()


def key_of(call: Call) -> str:
    """The key of the call that FastAPI makes for such a request."""
    return asyncio.run(_key(scope_of(call)))


def direct_key(*args: Any, scope: dict[str, Any] | None = None, **kwargs: Any) -> str:
    """The key of a call by somebody's own code."""
    request = Request(scope or scope_of(CALL))
    return asyncio.run(direct.cache_key(request, *args, **kwargs))


# -- requests -------------------------------------------------------------------------------------

#: Small pools: two that are drawn are often alike, and full of what delimits.
words = st.sampled_from(
    ["", "a", "b", "ab", "a,b", "a;b", "a=b", "a&b", "a:b", "None", "1", "ä", '"a"', "[]", "a b"]
)
headers = st.lists(words.map(lambda word: word.encode("latin-1")), max_size=3)
tokens = st.sampled_from(["", "a", "b", "ab", "a:b", "a,b", "1", "None", "True", "a|b"])
paths = st.lists(
    st.sampled_from(["", "a", "b", "a b", "a?b", "a%2Fb", "..", "ä", "\u2028", "a;b"]), max_size=3
).map(lambda parts: "/" + "/".join(parts))
names = st.sampled_from([b"a", b"%61", b"b", b"a+b", b"", b"%26", b"size", b"rest", b"x_parameter"])
pairs = st.lists(
    st.tuples(names, st.sampled_from([b"", b"1", b"2", b"%31", b"a=1", b"\xff", b"%00"])),
    max_size=4,
).map(lambda drawn: [pair for pair in drawn if pair[0] != b"size" or pair[1] in (b"1", b"2")])
queries = pairs.map(lambda drawn: b"&".join(name + b"=" + value for name, value in drawn))
calls = st.fixed_dictionaries(
    {
        "host": st.sampled_from(["a", "b", "A", "a:80", "a.b", ""]),
        "path": paths,
        "query": queries,
        "keyed": headers,
        "other": headers,
        "parameter": st.none() | words,
        "theme": st.none() | tokens,
        "account": st.none() | tokens,
    }
)


def meaning(call: Call) -> Any:
    """What an endpoint can see of a call, as far as it is part of the key."""
    seen = defaultdict(list)
    for name, value in parse_qsl(call["query"].decode("latin-1"), keep_blank_values=True):
        seen[name].append(value)
    cookies = dict(scope_of(call)["headers"]).get(b"cookie", b"").decode("latin-1")
    parsed = cookie_parser(cookies)
    return (
        call["host"].lower(),
        call["path"],
        dict(seen),
        call["keyed"],
        call["other"],
        call["parameter"],
        parsed.get("theme"),
        # Its default is the empty string.
        parsed.get("account", ""),
    )


@given(calls, st.data())
@example({**CALL, "keyed": [b"a"], "other": []}, None)
@examples(250)
def test_two_requests_share_a_key_only_if_an_endpoint_sees_the_same(
    one: Call, data: st.DataObject | None
) -> None:
    other = {**one, "keyed": one["other"], "other": one["keyed"]}
    if data is not None:
        changed = data.draw(st.lists(st.sampled_from(sorted(one)), max_size=2))
        other = {**one, **{name: data.draw(calls)[name] for name in changed}}
    if meaning(one) != meaning(other):
        assert key_of(one) != key_of(other)
    elif one["query"] == other["query"]:
        assert key_of(one) == key_of(other)


@given(st.lists(st.sampled_from([b"a=1", b"a=2", b"%61=1", b"a", b"a=", b"b=1"]), max_size=4))
@example([b"a=1", b"a=2"])
@example([b"%61=1", b"a=2"])
@examples(60)
def test_the_order_of_the_values_of_one_name_counts(parts: list[bytes]) -> None:
    one, other = ({**CALL, "query": b"&".join(each)} for each in (parts, parts[::-1]))
    # Two spellings of one meaning may have a key each.
    if meaning(one) != meaning(other):
        assert key_of(one) != key_of(other)


@given(calls)
@examples(60)
def test_each_part_of_a_request_counts(one: Call) -> None:
    others = [
        {**one, "host": one["host"] + "x"},
        {**one, "path": one["path"] + "x"},
        {**one, "query": one["query"] + b"&x=1"},
        {**one, "keyed": [*one["keyed"], b""]},
        {**one, "other": [*one["other"], b""]},
        {**one, "parameter": (one["parameter"] or "") + "x"},
        {**one, "theme": (one["theme"] or "") + "x"},
        {**one, "account": (one["account"] or "") + "x"},
        {**one, "query": one["query"] + b"&size=3"},
    ]
    keys = [key_of(call) for call in (one, *others)]
    assert len(set(keys)) == len(keys)


@given(calls, st.randoms(use_true_random=False))
@examples(150)
def test_the_order_of_what_has_different_names_does_not_count(call: Call, order: Any) -> None:
    scope = scope_of(call)
    parts = [part for part in call["query"].split(b"&") if part]
    shuffled = {
        **scope,
        "query_string": b"&".join(interleaved(parts, query_name, order)),
        "headers": interleaved(scope["headers"], lambda header: header[0], order),
    }
    assert asyncio.run(_key(shuffled)) == asyncio.run(_key(scope))


def interleaved(items: list[Any], name: Any, order: Any) -> list[Any]:
    """Shuffle items, but those of one name keep their order."""
    queues = defaultdict(list)
    for item in items:
        queues[name(item)].append(item)
    names = list(map(name, items))
    order.shuffle(names)
    return [queues[each].pop(0) for each in names]


def query_name(part: bytes) -> str:
    return parse_qsl(part.decode("latin-1") + "x", keep_blank_values=True)[0][0]


@given(st.sampled_from(["X-Keyed", "x-keyed", "X-KEYED", "x-Keyed"]), headers)
@examples(60)
def test_the_case_of_a_headers_name_does_not_count(name: str, values: list[bytes]) -> None:
    def key(spelling: str) -> str:
        scope = scope_of(CALL)
        scope["headers"] += [(spelling.encode(), value) for value in values]
        return direct_key(scope=scope)

    assert key(name) == key("x-keyed")


@given(headers, headers, headers)
@examples(60)
def test_what_is_in_no_key_does_not_count(
    keyed: list[bytes], one: list[bytes], other: list[bytes]
) -> None:
    def key(values: list[bytes]) -> str:
        scope = scope_of({**CALL, "keyed": keyed})
        scope["headers"] += [(b"x-any", value) for value in values]
        scope["client"] = (values[:1], 1)
        return asyncio.run(_key(scope))

    assert key(one) == key(other)


# -- arguments ------------------------------------------------------------------------------------

texts = st.text(st.characters(codec=None), max_size=6) | st.sampled_from(["", "1", "True", "1.0"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.integers()
    | st.sampled_from([0.0, -0.0, 1.0, 2.0])
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=3)
    | st.sampled_from([b"1", b"", bytearray(b"1"), 1 + 0j])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.none() | st.integers(-2, 2) | texts, inner, max_size=3)
        | st.frozensets(st.integers(-2, 2) | texts | st.binary(max_size=2), max_size=3)
    ),
    max_leaves=6,
)


@given(values, values)
@example(1, True)
@example(1, 1.0)
@example(1, "1")
@example(b"1", "1")
@example(b"1", bytearray(b"1"))
@example(0.0, -0.0)
@example("\ud800", "\udfff")
@example("\ud800", b"\xed\xa0\x80")
@example([True], [1])
@example([1], [1.0])
@example({"a": True}, {"a": 1})
@example({1: "a"}, {True: "a"})
@example([], ())
@example([[], []], [[[]]])
@example({"a": 1, "b": 2}, {"b": 2, "a": 1})
@example({"a": None}, {})
@example(["a", "b"], ["a,b"])
@example(frozenset(), ())
@examples(400)
def test_two_values_share_a_key_only_if_they_are_the_same(one: Any, other: Any) -> None:
    assert (direct_key(one) == direct_key(other)) == same(one, other)


arguments = st.tuples(
    st.lists(values, max_size=4),
    st.dictionaries(st.sampled_from(["named", "more", "a", "b", "items"]), values),
)


def bound(args: list[Any], kwargs: dict[str, Any]) -> Any:
    """What the function is called with, whatever the call looks like."""
    values = dict(zip(("one", "other"), args, strict=False))
    named = kwargs.get("named", "")
    more = {name: value for name, value in kwargs.items() if name != "named"}
    return [values.get("one"), values.get("other"), args[2:], named, more]


@given(arguments, arguments)
@example(([], {"named": ""}), ([], {}))
@example(([1], {}), ([None, 1], {}))
@examples(250)
def test_two_calls_share_a_key_only_if_they_pass_the_same(one: Any, other: Any) -> None:
    shared = direct_key(*one[0], **one[1]) == direct_key(*other[0], **other[1])
    assert shared == same(bound(*one), bound(*other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (([None, None, 1], {}), ([None, None], {"*0": 1})),
        (([], {"a": 1}), ([], {"**a": 1})),
        (([], {"a": 1, "**a": 2}), ([], {"**a": 2})),
    ],
)
def test_a_keyword_may_be_called_as_something_is_called_here(one: Any, other: Any) -> None:
    """`endpoint(**{"*0": 1})` is odd, but such names may come out of somebody's query."""
    assert direct_key(*one[0], **one[1]) != direct_key(*other[0], **other[1])


@given(arguments, st.randoms(use_true_random=False))
@examples(100)
def test_the_order_of_keyword_arguments_and_how_a_value_is_passed_do_not_count(
    call: Any, order: Any
) -> None:
    args, kwargs = call
    shuffled = list(kwargs.items())
    order.shuffle(shuffled)
    assert direct_key(*args, **dict(shuffled)) == direct_key(*args, **kwargs)
    if len(args) <= 2:
        by_name = dict(zip(("one", "other"), args, strict=False))
        items = [*shuffled, *by_name.items()]
        order.shuffle(items)
        assert direct_key(**dict(items)) == direct_key(*args, **kwargs)


@given(values, values, words)
@examples(100)
def test_a_value_does_not_run_into_its_neighbours(one: Any, other: Any, word: str) -> None:
    keys = {
        direct_key(one, other): [one, other, [], "", {}],
        direct_key(other, one): [other, one, [], "", {}],
        direct_key([one, other]): [[one, other], None, [], "", {}],
        direct_key(one, [other]): [one, [other], [], "", {}],
        direct_key(one, named=other): [one, None, [], other, {}],
        direct_key(one, **{word or "x": other}): [one, None, [], "", {word or "x": other}],
    }
    seen = list(keys.values())
    # As many keys as there are different calls.
    assert not any(same(a, b) for i, a in enumerate(seen) for b in seen[:i])


# -- another process ------------------------------------------------------------------------------

_PROGRAM = "from tests.keys.test_properties import batch; print(*batch(), sep='\\n')"


def _made_up(source: random.Random, depth: int = 0) -> Any:
    kind = source.randrange(7 if depth < 3 else 4)
    text = "".join(source.choices(string.printable + "ä\ud800", k=source.randrange(6)))
    match kind:
        case 0:
            return source.choice([None, True, False, 1, 1.0, -(2**70), 0.1])
        case 1:
            return text
        case 2:
            return source.randbytes(source.randrange(4))
        case 3:
            return frozenset(source.sample(string.ascii_letters, 8))
        case 4:
            return [_made_up(source, depth + 1) for _ in range(source.randrange(4))]
        case 5:
            return {f"{n} {text}": _made_up(source, depth + 1) for n in range(source.randrange(4))}
        case _:
            return {text, *source.sample(string.ascii_letters, 5), *source.sample(range(99), 5)}


def batch() -> list[str]:
    """The keys of many calls: the same calls, in whatever process."""
    source = random.Random(7)
    keys = []
    for number in range(150):
        args = [_made_up(source) for _ in range(source.randrange(4))]
        more = {name: _made_up(source) for name in source.sample("abcdef", source.randrange(4))}
        call = {
            **CALL,
            "host": source.choice(["a", "b"]),
            "path": f"/{number}",
            "query": f"b={number}&a={source.random()}".encode(),
            "keyed": [source.randbytes(3)],
            "parameter": str(source.random()),
            "theme": str(source.randrange(100)),
        }
        keys += [direct_key(*args, scope=scope_of(call), **more), key_of(call)]
    return keys


@pytest.mark.full
def test_another_process_with_another_hash_seed_makes_the_same_keys() -> None:
    here = batch()
    assert len(set(here)) == len(here) == 300
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout.split()
        assert json.dumps(found) == json.dumps(here)
