"""Large bodies in a directory and in an S3, beside Redis and a bare file. README.md says how."""

from __future__ import annotations

from benchmarks import large, misses
from benchmarks.bench import Bench
from benchmarks.bodies import WORKS
from benchmarks.contenders import FILE
from benchmarks.figures import figures_of
from benchmarks.hits import asking, one_client

_CACHES = ("ours-redis", "ours-file", "ours-s3")


def run(bench: Bench) -> None:
    """Measure."""
    body = WORKS["W4"]
    servers = bench.servers((FILE, *_CACHES))
    with asking(servers, body, "W4") as askers:
        hits = one_client(bench, askers, body)
        to = {name: FILE for name in hits if name != FILE}
        bench.figures += figures_of(
            hits, to, part="elsewhere", measure="bodies elsewhere: hit, one client", work="W4"
        )
    servers = bench.servers(["uncached", *_CACHES])
    with asking(servers, body, "W4") as askers:
        measured = misses.measure(bench, askers, body)
        misses.add(bench, measured, part="elsewhere", work="W4", what="bodies elsewhere: miss")
    bench.stop_servers()
    large.measure(bench, (FILE, *_CACHES))
