"""Endpoints of FastAPI: one that yields, and one that returns a model. README.md says how."""

from __future__ import annotations

from benchmarks import misses
from benchmarks.bench import Bench
from benchmarks.bodies import Body, Expected, Given
from benchmarks.client import Client
from benchmarks.contenders import Server
from benchmarks.figures import figures_of
from benchmarks.hits import Asker, asking, one_client

_OURS = ("fastapi-ours-memory", "fastapi-ours-redis")
_BY_ROUTE = ("fastapi-route-memory", "fastapi-route-redis")
_CACHE2 = ("fastapi-cache2-memory", "fastapi-cache2-redis")

#: Those who serve each; the first one is the reference.
WORKS = {
    "yields": ("fastapi-uncached", *_OURS, *_BY_ROUTE),
    "model": ("fastapi-uncached", *_OURS, *_BY_ROUTE, *_CACHE2),
}


def _has_route() -> bool:
    from benchmarks.fastapi_apps import HAS_ROUTE

    return HAS_ROUTE


def _expected(server: Server, work: str) -> tuple[Given, str]:
    """Return the body that has to come, and its type, as they are without a cache."""
    with Client(server.port) as client:
        answer = client.get(f"/{work}")
    if answer.status != 200 or not answer.complete:
        raise SystemExit(f"{work}: {answer.head}")
    media_type = next(line for line in answer.headers if line.startswith("content-type: "))
    return Given(answer.body), media_type.removeprefix("content-type: ")


def run(bench: Bench) -> None:
    """Measure."""
    if not _has_route():
        bench.say("without fastapi-route-*: this version has no StreamCache.Route")
    for work, wanted in WORKS.items():
        names = [name for name in wanted if _has_route() or name not in _BY_ROUTE]
        servers = bench.servers(["prepared", *names])
        # One whose package is missing was told of, and has no server.
        names = [name for name in names if name in servers]
        reference = names[0]
        body, media_type = _expected(servers[reference], work)
        asked = {name: servers[name] for name in names}
        # The floor sends as many bytes; what they are makes no difference.
        floor, as_large = {"prepared": servers["prepared"]}, Body(body.length, 1)
        with (
            asking(asked, body, work, media_type=media_type) as askers,
            asking(floor, as_large, f"bytes-{body.length}") as floors,
        ):
            _measure(bench, work, body, askers, floors["prepared"])
        bench.empty()


def _measure(
    bench: Bench, work: str, body: Expected, askers: dict[str, Asker], floor: Asker
) -> None:
    reference = next(iter(askers))
    hits = one_client(bench, {"prepared": floor, **askers}, body)
    to = dict.fromkeys(askers, "prepared")
    bench.figures += figures_of(
        hits, to, part="endpoints", measure="FastAPI: hit, one client", work=work
    )
    measured = misses.measure(bench, askers, body)
    misses.add(bench, measured, part="endpoints", work=work, what="FastAPI: miss", to=reference)
