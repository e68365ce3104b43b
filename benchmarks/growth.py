"""How a hit grows with the number of chunks: 100 to 100,000 of 20 bytes. README.md says how."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.bodies import GROWTH, path_of
from benchmarks.figures import figures_of
from benchmarks.hits import asking, one_client, references

NAMES = ("prepared", "redis-get", "uncached", "ours-memory", "ours-redis")


def run(bench: Bench) -> None:
    """Measure."""
    servers = bench.servers(NAMES)
    for work, body in GROWTH.items():
        with asking(servers, body, path_of(work)) as askers:
            hits = one_client(bench, askers, body)
        bench.figures += figures_of(
            hits,
            references(hits),
            part="growth",
            measure="hit, so many chunks of 20 bytes",
            work=work,
        )
    bench.empty()
