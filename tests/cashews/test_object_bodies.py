"""Large bodies of a cashews cache in a directory."""

from __future__ import annotations

from pathlib import Path

from cashews import Cache
from starlette.applications import Starlette
from starlette.routing import Route

from stream_cached.cashews import stream_cached
from tests.conftest import Serve
from tests.support.http_client import fetch
from tests.support.runs import HIT, Runs


def test_a_large_body_of_a_cashews_cache_is_a_file(
    serve: Serve, redis_url: str, tmp_path: Path
) -> None:
    cache = Cache()
    cache.setup(redis_url, client_side=False)
    runs = Runs(chunks=30)
    cached = stream_cached(cache, ttl=60, bodies=f"file://{tmp_path}/bodies", local=0)
    port = serve(Starlette(routes=[Route("/", cached(runs.__call__))])).port
    assert runs.is_whole(fetch(port))
    hit = fetch(port)
    assert hit.header("Cache-Status") == HIT
    assert runs.is_whole(hit)
    assert len(list((tmp_path / "bodies").glob("??/*"))) == 1
