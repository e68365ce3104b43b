"""What two answers come to: pure functions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stream_cached.command.asking import Answer
from stream_cached.command.verdict import verdict
from stream_cached.http.reasons import NotCached

MISS = Answer(
    200,
    headers={"cache-status": "stream-cached; fwd=uri-miss; stored", "transfer-encoding": "chunked"},
    head=0.01,
    times=(0.01, 0.2, 0.4),
    pieces=3,
    last=0.4,
    seconds=0.41,
    size=3,
    digest="same",
)
HIT = replace(
    MISS,
    headers={"cache-status": "stream-cached; hit", "content-length": "3"},
    times=(0.01,),
    pieces=1,
    last=0.01,
)


def status(answer: Answer, text: str, **headers: str) -> Answer:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return replace(answer, headers={**answer.headers, "cache-status": text, **more})


def words(first: Answer, second: Answer | None) -> list[str]:
    return [said.reason for said in verdict(first, second).findings]


def test_it_streams_and_hits() -> None:
    found = verdict(MISS, HIT)
    assert (found.streams, found.hits, found.findings, found.notes) == (True, True, (), ())


@pytest.mark.parametrize(
    ("times", "last", "streams", "expected"),
    [
        ((0.01, 0.02), 0.2, True, []),
        ((0.5, 0.501), 0.501, False, ["held-back"]),
        ((0.5,), 0.5, False, ["held-back"]),
        # A slow first row, and a stream after it.
        ((0.5, 0.6), 1.0, True, []),
        ((0.003, 0.004), 0.005, None, []),
        # Nothing at all.
        ((), 0.5, None, []),
    ],
)
def test_when_the_pieces_come(
    times: tuple[float, ...], last: float, streams: bool | None, expected: list[str]
) -> None:
    first = replace(MISS, times=times, pieces=len(times), last=last, seconds=last)
    assert verdict(first, HIT).streams is streams
    assert words(first, HIT) == expected


def test_a_length_is_no_stream() -> None:
    first = status(MISS, "stream-cached; fwd=uri-miss; stored", content_length="3")
    assert verdict(first, HIT).streams is False
    assert words(first, HIT) == ["length"]


def test_the_stream_of_a_hit_can_not_be_seen() -> None:
    found = verdict(HIT, HIT)
    assert (found.streams, found.hits, found.findings) == (None, True, ())
    assert [said.reason for said in found.notes] == ["hit-at-once"]


def test_likely_causes() -> None:
    held = replace(MISS, version="HTTP/1.0", times=(0.5,), pieces=1, last=0.5)
    held = status(held, "stream-cached; fwd=uri-miss; stored", content_encoding="gzip")
    [said] = verdict(held, HIT).findings
    assert "HTTP/1.0" in said.fix
    assert "gzip compression" in said.fix
    assert "proxy_buffering" in said.fix
    [said] = verdict(status(held, "", x_accel_buffering="no"), HIT).findings
    assert "proxy_buffering" not in said.fix


@pytest.mark.parametrize("reason", [each for each in NotCached if each is not NotCached.METHOD])
def test_each_reason_comes_with_its_text_and_its_fix(reason: NotCached) -> None:
    second = status(MISS, f'stream-cached; fwd=uri-miss; detail="{reason.word}"')
    [said] = verdict(MISS, second).findings
    assert (said.reason, said.text, said.fix) == (reason.word, reason.sentence, reason.fix)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stream-cached; fwd=method", "method"),
        ("stream-cached; fwd=uri-miss; stored", "uri-miss"),
        ("stream-cached; fwd=vary-miss; stored", "vary-miss"),
        ("stream-cached; fwd=stale; stored", "stale"),
        ("stream-cached; fwd=request; stored", "request"),
        ("stream-cached; fwd=miss", "miss"),
        ("stream-cached; fwd=uri-miss; collapsed", "collapsed"),
        ("stream-cached; fwd=other", "no-hit"),
        ("another; hit", "no-cache-status"),
        ("", "no-cache-status"),
    ],
)
def test_why_there_is_no_hit(text: str, expected: str) -> None:
    assert words(MISS, status(MISS, text)) == [expected]


def test_the_reason_of_the_first_answer_counts_where_the_second_has_none() -> None:
    first = status(MISS, 'stream-cached; fwd=uri-miss; detail="set-cookie"')
    assert words(first, status(MISS, "stream-cached; fwd=miss")) == ["set-cookie"]


def test_other_bytes() -> None:
    assert words(MISS, replace(HIT, digest="other")) == ["bytes"]


@pytest.mark.parametrize("code", [301, 401, 404, 500])
def test_a_status_says_enough(code: int) -> None:
    answer = Answer(code, headers={"content-length": "0"})
    found = verdict(answer, answer)
    assert (found.streams, found.hits) == (None, None)
    assert [said.reason for said in found.findings] == ["redirect" if code == 301 else "status"]


def test_what_has_no_end() -> None:
    assert words(replace(MISS, cut="size"), None) == ["endless"]
    assert verdict(replace(MISS, cut="time"), None).hits is None


def test_what_breaks_is_said_once() -> None:
    assert words(replace(MISS, cut="broken"), replace(MISS, cut="broken")) == ["broken"]


def test_the_fallback_is_told() -> None:
    [note] = verdict(MISS, status(HIT, 'stream-cached; hit; detail="fallback"')).notes
    assert note.reason == "fallback"
