"""What a miss takes, until its end and until its first byte. README.md says how."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from benchmarks.bench import Bench, Turn, interleave
from benchmarks.bodies import WORKS, Expected
from benchmarks.client import Answer
from benchmarks.contenders import CONTENDERS, GENERAL, UNCACHED
from benchmarks.figures import Series, figures_of
from benchmarks.hits import Asker, asking, count_for


def measure(
    bench: Bench, askers: Mapping[str, Asker], body: Expected
) -> tuple[dict[str, Series], dict[str, Series]]:
    """Measure the seconds of misses, one after the other: until the end, and the first byte."""
    firsts: dict[str, Series] = {name: Series() for name in askers}

    def turn(name: str, asker: Asker) -> Turn:
        count, round_number = 0, itertools.count()

        def measured() -> list[float]:
            nonlocal count
            if not count:
                # The first turn begins with the warm-up, unless that takes too long for another.
                answers = ask(1)
                if answers[0].took > bench.scale.patience:
                    return kept(answers)
                count = min(20, count_for(ask(2)[1].took, body))
            return kept(ask(count))

        def ask(number: int) -> list[Answer]:
            return asker.miss(list(itertools.islice(bench.fresh, number)))

        def kept(answers: list[Answer]) -> list[float]:
            firsts[name].add(next(round_number), [answer.first for answer in answers])
            return [answer.took for answer in answers]

        return measured

    turns = {name: turn(name, asker) for name, asker in askers.items()}
    most = max(3, bench.scale.kept // body.length)
    took = interleave(turns, bench.scale.seconds, most=most)
    for name, series in took.items():
        firsts[name].flaw = series.flaw
    return took, firsts


def add(
    bench: Bench,
    measured: tuple[Mapping[str, Series], Mapping[str, Series]],
    *,
    part: str,
    work: str,
    what: str = "miss",
    to: str = UNCACHED,
) -> None:
    """Make figures of both."""
    took, firsts = measured
    to_uncached = {name: to for name in took if name != to}
    bench.figures += figures_of(
        took, to_uncached, part=part, measure=f"{what}, one client", work=work
    )
    bench.figures += figures_of(
        firsts, to_uncached, part=part, measure=f"{what}, first byte", work=work
    )


def run(bench: Bench) -> None:
    """Measure."""
    names = [name for name in GENERAL if CONTENDERS[name].kind != "floor"]
    servers = bench.servers(names)
    for work, body in WORKS.items():
        with asking(servers, body, work, longest=bench.scale.longest) as askers:
            add(bench, measure(bench, askers, body), part="misses", work=work)
        bench.empty()
