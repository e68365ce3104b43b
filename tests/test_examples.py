"""The examples run, and show what they say."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys

import pytest
from fastapi import __version__ as fastapi_version
from starlette.testclient import TestClient

from tests.support.process import ROOT
from tests.support.runs import HIT, MISS


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_the_tokens_of_a_plain_generator(store: str, request: pytest.FixtureRequest) -> None:
    urls = [] if store == "memory" else [request.getfixturevalue("redis_url")]
    done = subprocess.run(
        [sys.executable, "-W", "error", "examples/tokens.py", *urls],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TOKENS": "10", "PAUSE": "0.01"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert sorted(line.partition(":")[0].strip() for line in lines) == ["first", "second", "third"]
    assert all(re.search(r": 10 tokens, .* runs so far: 1$", line) for line in lines)


@pytest.mark.skipif(
    tuple(map(int, fastapi_version.split(".")[:2])) < (0, 135),
    reason="this FastAPI does not stream what an endpoint yields",
)
@pytest.mark.parametrize("path", ["tokens", "events", "text"])
def test_the_tokens_of_an_endpoint(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("TOKENS", "3")
    monkeypatch.setenv("PAUSE", "0")
    monkeypatch.delitem(sys.modules, "examples.tokens_app", raising=False)
    app = importlib.import_module("examples.tokens_app").app
    with TestClient(app) as client:
        first, second = (client.get(f"/{path}", params={"prompt": path}) for _ in range(2))
    assert first.content == second.content
    assert first.text.count(f"{path} 2") == 1
    assert [each.headers["cache-status"] for each in (first, second)] == [MISS, HIT]
