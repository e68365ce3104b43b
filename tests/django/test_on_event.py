"""`on_event=` in the setting `STREAM_CACHED`: what it is told of views."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from django.http import HttpRequest, StreamingHttpResponse

from stream_cached import Answered, Event, RunBegan, RunEnded, RunResult
from stream_cached.django import cache_stream
from tests.django.conftest import Site
from tests.django.test_answers import content


def test_views_are_told_of(site: Site, cache_address: str) -> None:
    seen: list[Event] = []
    has_ended = threading.Event()

    def note(event: Event) -> None:
        seen.append(event)
        if isinstance(event, RunEnded):
            has_ended.set()

    @cache_stream(60)
    def export(request: HttpRequest) -> StreamingHttpResponse:
        def rows() -> Iterator[bytes]:
            yield b"one,"
            yield b"two"

        return StreamingHttpResponse(rows())

    cache = {"URL": cache_address, "ON_EVENT": note}
    client = site(export, STREAM_CACHED={"default": cache})
    for _ in range(2):
        assert content(client.get("/export")) == b"one,two"
    miss, hit = (each for each in seen if isinstance(each, Answered))
    assert (miss.outcome, hit.outcome) == ("miss", "hit")
    assert miss.endpoint == hit.endpoint
    assert miss.endpoint.endswith("export")
    assert miss.size == hit.size == 7
    assert hit.saved is not None
    # It is told in the thread of the event loop.
    assert has_ended.wait(10)
    assert [type(each) for each in seen if not isinstance(each, Answered)] == [RunBegan, RunEnded]
    assert [each.result for each in seen if isinstance(each, RunEnded)] == [RunResult.STORED]
