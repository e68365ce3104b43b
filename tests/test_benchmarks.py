"""`python -m benchmarks --quick`: each part runs, and nothing that it was answered was wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.process import ROOT

pytest.importorskip("uvloop")


@pytest.mark.full
@pytest.mark.usefixtures("redis_server")
@pytest.mark.parametrize(
    "part",
    [
        "keys",
        "hits",
        pytest.param("runs", marks=pytest.mark.full),
        pytest.param("outage", marks=pytest.mark.full),
        pytest.param("stampede", marks=pytest.mark.full),
        pytest.param("round-trips", marks=pytest.mark.full),
        pytest.param("streams", marks=pytest.mark.full),
    ],
)
def test_it_runs(part: str) -> None:
    done = subprocess.run(
        (sys.executable, "-m", "benchmarks", part, "--quick"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("s in all")
