"""How a project turns the plugin on."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ROOT

ON = 'pytest_plugins = ["stream_cached.testing"]\n'

UNDONE = """
import time

from stream_cached.decorated.hooks import AiocacheHooks
from stream_cached.engine import lookup
from stream_cached.testing import CacheUnderTest

binding = AiocacheHooks.binding


def test_moved(stream_cache: CacheUnderTest) -> None:
    stream_cache.travel(1)
    assert lookup.time is not time
    assert AiocacheHooks.binding is not binding


def test_not_moved() -> None:
    assert lookup.time is time
    assert AiocacheHooks.binding is binding
"""


def run(directory: Path, *options: str) -> str:
    """What pytest says of the tests in a directory."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.full
@pytest.mark.parametrize("option", [(), ("-p", "stream_cached.testing")])
def test_what_a_test_has_changed_is_undone(option: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    if not option:
        (tmp_path / "conftest.py").write_text(ON)
    (tmp_path / "test_it.py").write_text(UNDONE)
    assert "2 passed" in run(tmp_path, *option)


@pytest.mark.full
def test_the_page_shows_what_works(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    on, example, *_ = re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nusefixtures = stream_cache\n")
    (tmp_path / "conftest.py").write_text(on)
    (tmp_path / "test_it.py").write_text(example)
    assert "1 passed" in run(tmp_path, "-W", "ignore:Using `httpx`")


def test_the_plugin_does_not_load_itself_everywhere() -> None:
    points = importlib.metadata.entry_points(group="pytest11")
    assert not [each for each in points if each.value.startswith("stream_cached")]
