"""The page on the commands shows what they print."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_cached.command.main import main
from tests.conftest import Serve
from tests.support.process import ROOT

PAGE = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")

[APP] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
SHOWN = dict(re.findall(r"^```console\n\$ (.+?)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))


PROBE = "stream-cached probe http://localhost:8000/export"


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "shop.py").write_text(APP, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("shop", None)


def test_what_doctor_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "shop:app"]) == 1
    assert capsys.readouterr().out == SHOWN["stream-cached doctor shop:app"]


def test_what_probe_prints(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(importlib.import_module("shop").app)
    assert main(["probe", f"{server.url}/export"]) == 0
    printed = capsys.readouterr().out.replace(server.url, "http://localhost:8000")
    assert without_times(printed) == without_times(SHOWN[PROBE])


def without_times(text: str) -> str:
    return re.sub(r" +\d+ ms", " some ms", text)
