"""Faults of the store of the records, and of that of the bodies, where large bodies are files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.test_faults import Attempt, _disturbed
from tests.backends.test_faults import attempt as attempt
from tests.support.at_once import without_threads
from tests.support.faults import REDIS_FAULTS, Fault
from tests.support.moments import MOMENTS


@pytest.fixture(autouse=True)
def _without_threads() -> Iterator[None]:
    with without_threads():
        yield


#: Those in which a large body is written, or an entry with one is found.
_MOMENTS = [
    *("before a miss", "at the lease", "at the end of the lease", "at the commit of segments"),
    "at the look-up before the commit",
    *("at segment 0 of a run", "at segment 5 of a run", "at segment 8 of a run"),
    *("at a segment of a body at hand", "at the release of a failed run"),
    *("before a long hit", "at the look-up of a long hit"),
]


@pytest.mark.matrix(share=2, rest=4)
@pytest.mark.parametrize("fault", REDIS_FAULTS, ids=str)
@pytest.mark.parametrize("name", _MOMENTS)
def test_a_fault_of_redis_costs_no_client_a_byte(
    attempt: Attempt, tmp_path: Path, fault: Fault, name: str
) -> None:
    outages = (1 if fault.is_outage else 0) if fault.steady else None
    moment = MOMENTS[name]
    scenario = _disturbed(fault, moment)
    bodies = f"file://{tmp_path}"
    attempt("redis", scenario, outages=outages, local=moment.local, bodies=bodies)
