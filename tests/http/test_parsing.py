"""Whatever bytes a header has: never an exception, and never more than the grammar allows."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_cached.http import dates, qvalues
from stream_cached.http.conditions import CONDITIONS, Failed, evaluate
from stream_cached.http.dates import http_date
from stream_cached.http.directives import delta_seconds, parse
from stream_cached.http.freshness import Lifetime, lifetime_of
from stream_cached.http.policy import why_not_shared
from stream_cached.http.ranges import Part, Unsatisfiable, range_of
from stream_cached.http.sent import SentHead
from stream_cached.http.structured import StructuredFieldError, parse_dictionary
from stream_cached.http.vary import selecting_value
from stream_cached.http.wishes import Wishes, wishes_of
from tests.http.rules import NOW

_WORDS = "max-age s-maxage stale-if-error no-cache private public no-store bytes= q= gzip 0 60"
_SIGNS = '=,;"\\ \t-*\0\xff'
_DATES = "Sun, 06 Nov 1994 08:49:37 GMT|Sun Nov  6 08:49:37 1994|W/"

PIECES = st.sampled_from(
    [each.encode("latin-1") for each in (*_WORDS.split(), *_SIGNS, *_DATES.split("|"))]
)
VALUES = st.one_of(st.binary(max_size=40), st.lists(PIECES, max_size=12).map(b"".join))
NAMES = st.sampled_from(
    [b"cache-control", b"expires", b"age", b"date", b"last-modified", b"etag", b"vary", b"target"]
)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
CONDITION = st.tuples(st.sampled_from(sorted(CONDITIONS | {b"accept-encoding"})), VALUES)


@given(HEADERS, st.sampled_from([200, 404, 599]), st.sampled_from([(), ("target",)]))
def test_nothing_in_a_response_is_an_error(
    headers: list[tuple[bytes, bytes]], status: int, targets: tuple[str, ...]
) -> None:
    found = lifetime_of(status, headers, asked_at=NOW, received=NOW, heuristic=0.1, targets=targets)
    why_not_shared(headers, targets, status)
    assert 0 <= SentHead(headers, status, None).age(NOW, NOW) <= 2**31
    if isinstance(found, Lifetime):
        assert min(found.windows.while_revalidate, found.windows.if_error) >= 0


@given(VALUES)
def test_no_other_line_lengthens_the_life_of_a_response(line: bytes) -> None:
    own = (b"cache-control", b"s-maxage=60")
    found = lifetime_of(200, [own, (b"cache-control", line)], asked_at=NOW, received=NOW)
    assert not isinstance(found, Lifetime) or found.fresh_until <= NOW + 60


@given(VALUES, st.sampled_from([b"no-store", b"private", b"x=1, private", b"No-Store ; a"]))
def test_no_other_line_makes_a_private_response_shared(line: bytes, own: bytes) -> None:
    # Unless the line takes it back, as it may.
    if not {"must-understand", "private"} & parse([line]).named:
        lines = [(b"cache-control", line), (b"cache-control", own), (b"cache-control", line)]
        assert why_not_shared(lines, (), 200) is not None


@given(st.lists(VALUES, max_size=3), st.lists(VALUES, max_size=2), st.booleans())
def test_nothing_in_a_request_is_an_error(
    lines: list[bytes], pragma: list[bytes], is_honoured: bool
) -> None:
    wishes = wishes_of(lines, pragma, is_honoured=is_honoured)
    if not is_honoured:
        assert wishes.max_stale is None
        assert not wishes.no_cache
    for name in ("accept-language", "accept-encoding", "x-any"):
        assert selecting_value(name, lines) == selecting_value(name, lines)


LONG = 20_000
REPEATED = [
    b'"',
    b'"\\',
    b'\\"',
    b"a",
    b",",
    b" ",
    b"\t,",
    b"a=",
    b'a="',
    b'W/"',
    b'"a" ',
    b"a;q=0 ",
]


@pytest.mark.parametrize("repeated", REPEATED)
def test_a_long_line_is_read_in_time(repeated: bytes) -> None:
    began = time.process_time()
    for before, after in ((b"", b""), (b"a", b"b"), (b'"', b""), (b"", b'"')):
        line = before + repeated * (LONG // len(repeated)) + after
        wishes_of([line], [], is_honoured=True)
        range_of([b"bytes=" + line], 10)
        for name in ("accept-language", "accept-encoding", "x-any"):
            selecting_value(name, [line])
        for field in (b"if-match", b"if-none-match", b"if-range", b"if-modified-since"):
            asked = [(field, line), (b"range", b"bytes=0-1"), (b"accept-encoding", line)]
            evaluate("GET", asked, 200, [(b"etag", b'"a"')], 10, NOW)
    assert time.process_time() - began < 1


def test_nothing_that_is_made_of_a_long_line_is_kept() -> None:
    caches = (qvalues._accepts_coding, dates.http_date)
    before = [cache.cache_info().currsize for cache in caches]
    for number in range(3):
        line = b"gzip, " * 1000 + b"br%d" % number
        assert qvalues.accepts_coding([line])
        assert qvalues.accepts_coding([b"identity", line])
        assert dates.date_of([(b"date", line)], b"date", NOW) is None
    assert [cache.cache_info().currsize for cache in caches] == before


@given(st.lists(CONDITION, max_size=4), HEADERS, st.sampled_from(["GET", "HEAD", "POST"]))
def test_no_condition_is_an_error(
    request: list[tuple[bytes, bytes]], response: list[tuple[bytes, bytes]], method: str
) -> None:
    found = evaluate(method, request, 200, response, 10, NOW)
    if isinstance(found, Part):
        assert 0 <= found.start < found.stop <= 10


@given(st.integers(0, 60), st.integers(0, 60), st.binary(max_size=50))
def test_a_range_is_a_slice(first: int, last: int, body: bytes) -> None:
    whole = len(body)
    for text, expected in (
        (b"bytes=%d-%d" % (first, last), body[first : last + 1] if last >= first else None),
        (b"bytes=%d-" % first, body[first:]),
        # All of an empty body are its last bytes.
        (b"bytes=-%d" % first, (body[-first:] or None) if first else b""),
    ):
        found = range_of([text], whole)
        if expected is None:
            assert found is None
        elif not expected:
            assert found == Unsatisfiable()
        else:
            assert isinstance(found, Part)
            assert body[found.start : found.stop] == expected
            assert found.length == len(expected)


@given(st.integers(0, 4_000_000_000))
def test_the_three_forms_of_a_date_are_one_time(seconds: int) -> None:
    moment = time.gmtime(seconds)
    days = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    day = days[moment.tm_wday]
    clock = time.strftime("%H:%M:%S", moment)
    month = time.strftime("%b", moment)
    forms = [
        f"{day[:3]}, {moment.tm_mday:02} {month} {moment.tm_year} {clock} GMT",
        f"{day}, {moment.tm_mday:02}-{month}-{moment.tm_year % 100:02} {clock} GMT",
        f"{day[:3]} {month} {moment.tm_mday:2} {clock} {moment.tm_year}",
    ]
    found = {http_date(form.encode("ascii"), moment.tm_year) for form in forms}
    assert found == {float(seconds)}


@given(VALUES)
def test_a_date_is_a_date_or_none(value: bytes) -> None:
    found = http_date(value, 2026)
    assert found is None or isinstance(found, float)


@given(st.text(max_size=12))
def test_a_number_of_seconds_is_bounded(text: str) -> None:
    found = delta_seconds(text)
    assert found is None or 0 <= found <= 2**31


@given(st.lists(VALUES, max_size=3))
def test_a_structured_field_is_a_dictionary_or_nothing(lines: list[bytes]) -> None:
    try:
        members = parse_dictionary(lines)
    except StructuredFieldError:
        return
    assert all(name == name.lower() for name in members)


@given(st.sampled_from([b"if-none-match", b"if-match"]), st.lists(VALUES, min_size=1, max_size=3))
def test_a_tag_is_matched_by_nothing_but_itself(name: bytes, lines: list[bytes]) -> None:
    response = [(b"etag", b'"0"')]
    found = evaluate("GET", [(name, line) for line in lines], 200, response, 10, NOW)
    is_known = b'"0"' in b",".join(lines) or {line.strip(b" \t") for line in lines} == {b"*"}
    unknown = None if name == b"if-none-match" else Failed()
    assert is_known or found == unknown


@given(VALUES)
def test_a_part_is_sent_for_no_other_tag_or_date(value: bytes) -> None:
    asked = [(b"range", b"bytes=0-1"), (b"if-range", value)]
    response = [(b"etag", b'"1"'), (b"last-modified", b"Sun, 06 Nov 1994 07:49:37 GMT")]
    assert evaluate("GET", asked, 200, response, 10, NOW) is None


@given(st.lists(VALUES, min_size=1, max_size=3), st.lists(VALUES, min_size=1, max_size=3))
def test_other_values_select_another_response(one: list[bytes], other: list[bytes]) -> None:
    def squeezed(lines: list[bytes]) -> bytes:
        return b",".join(lines).translate(None, b" \t")

    if selecting_value("x-any", one) == selecting_value("x-any", other):
        assert squeezed(one) == squeezed(other)


@given(VALUES, VALUES)
def test_a_client_lowers_what_it_is_sent_and_no_more(line: bytes, pragma: bytes) -> None:
    wishes = wishes_of([line], [pragma], is_honoured=False)
    assert wishes == Wishes(no_store=wishes.no_store, only_if_cached=wishes.only_if_cached)
