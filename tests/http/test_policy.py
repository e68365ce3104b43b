"""What may be stored and what not, by status and header; what Cache-Status says of it."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

import pytest

from stream_cached import NotCached
from stream_cached.events import Reporter
from stream_cached.http.cache_status import cache_status
from stream_cached.http.headers import (
    cache_directives,
    content_length,
    field_names,
    list_members,
    vary_names,
)
from stream_cached.http.policy import DEFAULT_STATUSES, NEVER_STORED, may_be_shared, why_not_stored
from stream_cached.http.reasons import BypassError, Finding

each_reason = pytest.mark.parametrize("reason", NotCached, ids=lambda reason: reason.word)


def test_nothing_but_complete_and_final_answers_is_stored_by_default() -> None:
    stored = {
        status for status in range(600) if why_not_stored(status, [], DEFAULT_STATUSES) is None
    }
    assert stored == {200, 203, 204, 300, 301, 308, 404, 410}


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_name_of_a_field_may_be_a_bytearray(kind: Any) -> None:
    assert field_names([(kind(b"X-One"), b""), (b"vary", b"")]) == {b"x-one", b"vary"}


@pytest.mark.parametrize("status", sorted(NEVER_STORED))
def test_a_part_of_another_response_is_not_stored_whatever_the_statuses_are(status: int) -> None:
    assert why_not_stored(status, [], frozenset(range(600))) is NotCached.STATUS


@pytest.mark.parametrize("status", [201, 302, 418, 500])
def test_a_status_that_is_asked_for_is_stored(status: int) -> None:
    assert why_not_stored(status, [], frozenset({status})) is None
    assert why_not_stored(200, [], frozenset({status})) is NotCached.STATUS


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], None),
        ([(b"content-type", b"text/csv"), (b"etag", b'"private, no-store, *"')], None),
        ([(b"set-cookie", b"a=b")], NotCached.SET_COOKIE),
        ([(b"Set-Cookie", b"")], NotCached.SET_COOKIE),
        ([(b"set-cookie2", b"a=b")], None),
        ([(b"cache-control", b"")], None),
        ([(b"cache-control", b"public, max-age=60")], None),
        ([(b"cache-control", b"no-cache")], None),
        ([(b"cache-control", b"max-age=0, must-revalidate")], None),
        ([(b"cache-control", b"private")], NotCached.CACHE_CONTROL),
        ([(b"cache-control", b"no-store")], NotCached.CACHE_CONTROL),
        ([(b"Cache-Control", b"max-age=60 ,\tPRIVATE")], NotCached.CACHE_CONTROL),
        ([(b"cache-control", b'private="set-cookie"')], None),
        ([(b"cache-control", b'private="set-cookie", private')], NotCached.CACHE_CONTROL),
        ([(b"cache-control", b'private="vary"')], NotCached.CACHE_CONTROL),
        ([(b"cache-control", b"no-store, must-understand")], None),
        ([(b"cache-control", b"No-Store=1")], NotCached.CACHE_CONTROL),
        ([(b"cache-control", b"max-age=60"), (b"cache-control", b"no-store")], "second line"),
        ([(b"cache-control", b",,no-store,,")], NotCached.CACHE_CONTROL),
        ([(b"cache-control", b"x-private, no-storage")], None),
        ([(b"vary", b"Accept, Accept-Language")], None),
        ([(b"vary", b"*")], NotCached.VARY_ANY),
        ([(b"Vary", b"Accept , *")], NotCached.VARY_ANY),
        ([(b"vary", b"accept"), (b"vary", b"*")], NotCached.VARY_ANY),
        ([(b"vary", b"accept*")], None),
    ],
)
def test_the_head_of_a_response_says_whether_it_is_stored(
    headers: list[tuple[bytes, bytes]], reason: object
) -> None:
    expected = NotCached.CACHE_CONTROL if reason == "second line" else reason
    assert why_not_stored(200, headers, DEFAULT_STATUSES) is expected


@pytest.mark.parametrize(
    ("values", "members"),
    [
        ([], []),
        ([b""], []),
        ([b" , ,\t,"], []),
        ([b"Accept"], ["accept"]),
        ([b"Accept,Cookie", b" X-A\t, X-B"], ["accept", "cookie", "x-a", "x-b"]),
        ([b"a,a", b"a"], ["a", "a", "a"]),
        ([b"\xc4,\xff"], ["ä", "ÿ"]),
    ],
)
def test_a_list_header_is_split_into_its_members(values: list[bytes], members: list[str]) -> None:
    assert list_members(values) == members


def test_a_directive_is_known_by_its_name() -> None:
    values = [b'Max-Age = 60, private="a", , no-store', b"stale-while-revalidate=5"]
    assert cache_directives(values) == {
        "max-age": "60",
        "private": "a",
        "no-store": "",
        "stale-while-revalidate": "5",
    }


def test_the_names_in_vary_are_found_in_every_line_and_spelling() -> None:
    headers = [(b"vary", b"Accept, COOKIE"), (b"x-vary", b"nothing"), (b"Vary", b"cookie,Host")]
    assert vary_names(headers) == {"accept", "cookie", "host"}


@pytest.mark.parametrize(
    "value", [b"Cookie Accept", b"Accept; Cookie", b'"Cookie"', b"a, b\xe4", b"*"]
)
def test_what_is_no_name_in_vary_stands_for_any(value: bytes) -> None:
    assert "*" in vary_names([(b"vary", value)])


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ([], None),
        ([(b"content-length", b"0")], 0),
        ([(b"Content-Length", b"0012")], 12),
        ([(b"content-length", b"")], None),
        ([(b"content-length", b"-1")], None),
        ([(b"content-length", b"+5")], None),
        ([(b"content-length", b"1_0")], None),
        ([(b"content-length", b"1e3")], None),
        ([(b"x-content-length", b"7")], None),
    ],
)
def test_a_content_length_is_digits_or_none_at_all(
    headers: list[tuple[bytes, bytes]], length: int | None
) -> None:
    assert content_length(headers) == length


def test_cache_status_is_written_as_in_rfc_9211() -> None:
    assert cache_status() == "stream-cached"
    assert cache_status(hit=True) == "stream-cached; hit"
    assert cache_status(fwd="uri-miss") == "stream-cached; fwd=uri-miss"
    assert cache_status(fwd="uri-miss", stored=True) == "stream-cached; fwd=uri-miss; stored"
    assert (
        cache_status(fwd="bypass", detail="set-cookie")
        == 'stream-cached; fwd=bypass; detail="set-cookie"'
    )


@each_reason
def test_a_reason_fits_into_cache_status_as_it_is(reason: NotCached) -> None:
    # A string of RFC 8941 needs no escapes without quotes and backslashes.
    assert re.fullmatch(r"[a-z][a-z0-9-]*", reason.word)
    assert reason.word not in {"hit", "stored", "fwd"}


def test_every_reason_has_a_word_of_its_own() -> None:
    # Equal values would make one an alias of the other, which iteration leaves out.
    assert len(NotCached) == len(NotCached.__members__)
    assert len({reason.word for reason in NotCached}) == len(NotCached)
    assert len({reason.sentence for reason in NotCached}) == len(NotCached)


@each_reason
def test_a_reason_is_said_once_for_each_subject_and_never_raises(
    reason: NotCached, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "stream_cached")
    reporter = Reporter("app.report")
    for subject in ("", "a", "a", ""):
        reporter.not_cached(Finding(reason, subject))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    for message in messages:
        assert message.startswith("app.report: ")
        assert reason.sentence in message
        assert reason.fix in message
    assert "(a)" in messages[1]


@pytest.mark.parametrize(
    "reason", [NotCached.METHOD, NotCached.ARGUMENT, NotCached.READ, NotCached.SET_COOKIE]
)
def test_a_mistake_is_a_warning_and_an_intention_is_none(
    reason: NotCached, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "stream_cached")
    reporter = Reporter("app.report")
    reporter.not_cached(Finding(reason))
    reporter.not_cached(Finding(NotCached.SKIPPED))
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.DEBUG]


def test_the_mends_name_what_to_pass() -> None:
    assert "methods=" in NotCached.METHOD.fix
    assert "key_args=" in NotCached.ARGUMENT.fix
    assert "authorized=" in NotCached.AUTHORIZATION.fix
    assert "unguarded=" in NotCached.READ.fix


def test_several_reasons_are_one_warning_and_each_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "stream_cached")
    reporter = Reporter("app.report")
    authorization = Finding(NotCached.AUTHORIZATION)
    argument = Finding(NotCached.ARGUMENT, "user is of type app.User", "pass key_args=")
    reporter.not_cached(authorization, argument)
    reporter.not_cached(argument, authorization)
    reporter.not_cached(argument, Finding(NotCached.SET_COOKIE))
    first, second = (record.getMessage() for record in caplog.records)
    assert NotCached.AUTHORIZATION.sentence in first
    assert NotCached.AUTHORIZATION.fix in first
    assert "(user is of type app.User)" in first
    assert "pass key_args=" in first
    assert NotCached.SET_COOKIE.sentence in second
    assert "app.User" not in second


def test_a_store_that_fails_now_and_then_is_said_three_times_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "stream_cached")
    reporter, now = Reporter("app.report"), 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def fails_and_works(cause: str, times: int) -> int:
        """Return how many lines that has led to."""
        before = len(caplog.records)
        for _ in range(times):
            reporter.store_failed(OSError(cause), "writing")
            reporter.store_works("writing")
        return len(caplog.records) - before

    assert fails_and_works("evicted", 5) == 6
    assert fails_and_works("refused", 1) == 2
    now += 61.0
    assert fails_and_works("refused", 5) == 6

    # One that goes on to fail is not passed over.
    reporter.store_failed(OSError("refused"), "writing")
    now += 61.0
    reporter.store_failed(OSError("refused"), "writing")
    assert caplog.records[-1].levelno == logging.WARNING


def test_a_failing_store_is_said_once_until_it_works_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "stream_cached")
    reporter = Reporter("app.report")
    reporter.store_works("reading")
    for cause in ("refused", "refused", "timed out", "timed out"):
        reporter.store_failed(OSError(cause), "reading")
    for _ in range(2):
        reporter.store_works("reading")
    reporter.store_failed(OSError("refused"), "reading")
    said = [record.getMessage() for record in caplog.records]
    assert [("fails" in text, "works" in text) for text in said] == [
        *((True, False), (True, False), (False, True), (True, False)),
    ]


def test_a_bypass_says_why_and_what_to_write() -> None:
    error = BypassError(Finding(NotCached.METHOD, "POST"), Finding(NotCached.AUTHORIZATION))
    assert error.reasons == (NotCached.METHOD, NotCached.AUTHORIZATION)
    assert f"{NotCached.METHOD.sentence} (POST)" in str(error)
    assert NotCached.METHOD.fix in str(error)


@pytest.mark.parametrize(
    ("value", "age", "shared"),
    [
        (None, 0, False),
        ("max-age=60", 0, False),
        ("public", 0, True),
        ("public", 1e6, True),
        ("Public, Max-Age=60", 59.9, True),
        ("public, max-age=60", 60, False),
        ("public, max-age=0", 0, False),
        ("public, max-age=nonsense", 0, False),
        ("public, no-cache", 0, False),
        ("public, private", 0, False),
        ("public, no-store", 0, False),
        ("s-maxage=60", 0, True),
        ('s-maxage="60"', 0, True),
        ("s-maxage=0", 0, False),
        ("s-maxage=10, max-age=60", 30, False),
        ("s-maxage=60, max-age=10", 30, True),
        ("must-revalidate", 0, False),
        ("must-revalidate, max-age=60", 0, True),
        ("must-revalidate, max-age=60", 60, False),
        ("no-cache, must-revalidate", 0, False),
        ("proxy-revalidate, max-age=60", 0, False),
        ("public, max-age=0, max-age=60", 0, False),
        ("public, max-age=60, max-age=0", 0, False),
        ('ext="a, public, b"', 0, False),
        ("public; private", 0, False),
        ("public, max-age=\u00b2", 0, False),
        ("public, max-age=-1", 0, False),
    ],
)
def test_what_answers_one_user_may_answer_another_only_where_it_says_so(
    value: str | None, age: float, shared: bool
) -> None:
    headers = [] if value is None else [(b"Cache-Control", value.encode("latin-1"))]
    assert may_be_shared(headers, age) is shared


def test_what_is_stale_elsewhere_already_is_not_shared() -> None:
    public = (b"cache-control", b"public, max-age=60")
    assert may_be_shared([public, (b"age", b"59")], 0)
    assert not may_be_shared([public, (b"age", b"60")], 0)
    assert not may_be_shared([public, (b"age", b"unknown")], 0)
    expired = (b"expires", b"Thu, 01 Jan 1970 00:00:00 GMT")
    assert not may_be_shared([(b"cache-control", b"public"), expired], 0)


@pytest.mark.parametrize(
    "value", ["private; max-age=60", "no-store;must-revalidate", '"private"', "max-age=60 private"]
)
def test_a_directive_that_is_written_wrongly_forbids_all_the_same(value: str) -> None:
    headers = [(b"cache-control", value.encode())]
    assert why_not_stored(200, headers, DEFAULT_STATUSES) is NotCached.CACHE_CONTROL


def test_a_number_of_thousands_of_digits_is_none() -> None:
    digits = b"9" * 5000
    assert content_length([(b"content-length", digits)]) is None
    for header in ((b"cache-control", b"public, max-age=" + digits), (b"age", digits)):
        headers = [(b"cache-control", b"public, max-age=60"), header]
        assert may_be_shared(headers, age=0) in (True, False)
