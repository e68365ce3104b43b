"""The README and the docs: their code runs, and the table of reasons is the one of the code."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from stream_cached import NotCached, stream_cached
from stream_cached.limits import LIMITS
from tests.conftest import Spawn
from tests.support.http_client import fetch
from tests.support.process import ROOT
from tests.support.runs import FALLBACK_HIT, FALLBACK_MISS

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = re.findall(r"```python\n(.*?)```", "\n".join([README, *DOCS]), flags=re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_each_snippet_runs(snippet: str, tmp_path: Path) -> None:
    script = tmp_path / "snippet.py"
    script.write_text(snippet, encoding="utf-8")
    subprocess.run([sys.executable, "-W", "error", script], check=True, timeout=30, cwd=ROOT)


def test_the_first_snippet_answers_without_a_redis_with_one_warning(
    spawn: Spawn, tmp_path: Path
) -> None:
    nobody_listens = SNIPPETS[0].replace("localhost:6379", "127.0.0.1:9")
    (tmp_path / "readme_app.py").write_text(nobody_listens, encoding="utf-8")
    server = spawn("readme_app:app", environment={"PYTHONPATH": f"{tmp_path}:{ROOT}"})

    answers = [fetch(server.port, "/export") for _ in range(3)]

    assert {answer.status for answer in answers} == {200}
    assert all(answer.complete and answer.text.endswith("999,998001\n") for answer in answers)
    statuses = [answer.header("Cache-Status") for answer in answers]
    assert statuses == [FALLBACK_MISS, FALLBACK_HIT, FALLBACK_HIT]
    assert server.output().count("requests are answered without it") == 1


def test_the_table_of_reasons_is_the_one_of_the_code() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| ([a-z].+) \| (.+) \|$", README, flags=re.MULTILINE)
    assert rows == [(reason.word, reason.sentence, reason.fix) for reason in NotCached]


def test_every_parameter_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`([a-z_]+)=", README)) - {"cache_read"}
    code = stream_cached.__init__.__code__
    parameters = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    assert named <= {*parameters, *LIMITS, "endpoint", "port", "request"}


def test_every_extra_that_the_readme_names_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = set(re.findall(r"stream-cached\[([a-z]+)\]", README)) | {"memcached"}
    assert named <= project["optional-dependencies"].keys()
