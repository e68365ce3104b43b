"""The example project runs, and shows what its page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.support.process import ROOT

EXAMPLE = ROOT / "examples" / "django"


def done(*command: str) -> str:
    """What a command of the project writes."""
    result = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=EXAMPLE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SHOP_DATABASE": ":memory:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@pytest.mark.full
def test_the_tests_of_the_project() -> None:
    assert "OK" in done("manage.py", "test")


@pytest.mark.full
def test_first_and_last_rows() -> None:
    rows = re.findall(r"^(WSGI|ASGI) +(\w+) +(\w+) +([\d.]+) s +([\d.]+) s$", done("demo.py"), re.M)
    assert len(rows) == 12
    for _, _, which, first, last in rows:
        if which == "miss":
            assert float(first) < 0.6 < float(last)
        elif which == "hit":
            assert float(last) < 0.6
