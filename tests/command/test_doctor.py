"""`stream-cached doctor`: what it imports, what it prints, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stream_cached.command.main import main
from tests.support.process import HOST, free_port

APP = """
import os
from typing import Annotated
from fastapi import FastAPI, Header
from fastapi.responses import StreamingResponse
from stream_cached import StreamCache, stream_cached

print("imported")
streams = StreamCache({url!r}, ttl="10m", namespace="shop")
app = FastAPI()

@app.get("/export")
@streams.cached({options})
async def export(x_request_id: Annotated[str, Header()] = "") -> StreamingResponse:
    return StreamingResponse(iter(()))

@app.get("/fine")
@streams.cached()
async def fine() -> StreamingResponse:
    return StreamingResponse(iter(()))

def create_app():
    return app
"""


IGNORED = "key_ignore=('x_request_id',)"


class Doctor:
    def __init__(self, capsys: pytest.CaptureFixture[str], directory: Path) -> None:
        self._capsys = capsys
        self._directory = directory
        self._number = 0

    def module(self, source: str) -> str:
        """The name of a module with this source, which was not imported before."""
        self._number += 1
        name = f"{self._directory.name.replace('-', '_')}_{self._number}"
        (self._directory / f"{name}.py").write_text(source)
        return name

    def app(self, url: str = "memory://", options: str = "") -> str:
        return self.module(APP.format(url=url, options=options))

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        status = main(["doctor", *arguments])
        output = self._capsys.readouterr()
        return status, output.out, output.err

    def json(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        status, out, _ = self(*arguments, "--json")
        return status, json.loads(out)


@pytest.fixture
def doctor(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Doctor:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    return Doctor(capsys, tmp_path)


def words(said: list[dict[str, str]]) -> list[str]:
    return [each["reason"] for each in said]


# -- findings -------------------------------------------------------------------------------------


def test_the_fields_of_the_json(doctor: Doctor) -> None:
    target = f"{doctor.app()}:app"
    status, found = doctor.json(target)
    assert status == 1
    assert found.keys() == {
        *("version", "target", "ok", "routes", "endpoints", "undecorated", "settings", "notes"),
        "stores",
    }
    assert (found["version"], found["target"], found["ok"]) == (1, target, False)
    export, fine = found["endpoints"]
    assert export.keys() == {
        *("path", "methods", "name", "place", "store", "ttl", "key", "arguments", "findings"),
        "notes",
    }
    assert (export["path"], export["methods"]) == ("/export", ["GET"])
    assert export["arguments"] == {"x_request_id": "in the key, as a header"}
    # What the decorator warns of while the module is imported.
    assert words(export["findings"]) == ["warning"]
    assert "x-request-id" in export["findings"][0]["text"]
    assert fine["findings"] == []
    assert fine["store"] == {
        "address": "memory://",
        "in_process": True,
        "namespace": "shop",
        "bodies": "",
    }
    assert fine["ttl"] == "600 s"
    assert fine["key"] == ["method", "scheme", "host", "path", "query"]


def test_nothing_is_wrong(doctor: Doctor) -> None:
    status, out, _ = doctor(f"{doctor.app(options=IGNORED)}:app")
    assert status == 0
    assert "no findings" in out
    assert "left out by key_ignore=" in out


def test_the_text_is_readable_at_80_columns(doctor: Doctor) -> None:
    status, out, err = doctor("tests.command.shop:app")
    assert status == 1
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    assert "Streams that are not decorated" in out
    assert "tests.command.shop.plain" in out
    assert "above-route: @stream_cached stands above the route decorator" in out
    assert err == ""


def test_what_the_library_warns_of_is_said_once(
    doctor: Doctor, caplog: pytest.LogCaptureFixture
) -> None:
    _, found = doctor.json(f"{doctor.app()}:app")
    assert words(found["endpoints"][0]["findings"]) == ["warning"]
    assert [each for each in caplog.records if each.name == "stream_cached"] == []


def test_what_an_application_prints_is_no_part_of_the_output(doctor: Doctor) -> None:
    status, out, err = doctor(f"{doctor.app()}:app", "--json")
    assert status == 1
    assert json.loads(out)
    assert err == "imported\n"


@pytest.mark.parametrize(("workers", "expected"), [("1", []), ("4", ["workers"])])
def test_workers_with_memory_of_their_own(
    workers: str, expected: list[str], doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", workers)
    _, found = doctor.json(f"{doctor.app()}:app")
    assert words(found["settings"]) == expected


def test_bodies_beside_memory(doctor: Doctor, tmp_path: Path) -> None:
    bodies = f"bodies='file://{tmp_path}/bodies'"
    _, found = doctor.json(f"{doctor.app(options=bodies)}:app")
    assert ["in the memory of this process" in each["text"] for each in found["settings"]] == [True]


def test_what_may_be_meant_so_is_no_finding(doctor: Doctor) -> None:
    options = f"{IGNORED}, fallback=False"
    url = f"redis://{HOST}:{free_port()}/0"
    status, found = doctor.json(f"{doctor.app(url, options)}:app")
    assert status == 0
    assert words(found["notes"]) == ["fallback"]


# -- stores ---------------------------------------------------------------------------------------


def test_a_store_that_is_away(doctor: Doctor) -> None:
    port = free_port()
    target = f"{doctor.app(f'redis://user:geheim@{HOST}:{port}/0')}:app"
    _, found = doctor.json(target)
    assert found["settings"] == []
    status, out, _ = doctor(target, "--connect")
    assert status == 1
    assert f"redis://{HOST}:{port}/0 does not answer" in " ".join(out.split())
    assert "geheim" not in out


def test_a_store_that_answers(doctor: Doctor, redis_url: str) -> None:
    status, found = doctor.json(f"{doctor.app(redis_url, IGNORED)}:app", "--connect")
    assert (status, found["settings"]) == (0, [])
    assert [each["answers"] for each in found["stores"]] == [True]


def test_a_url_that_is_none(doctor: Doctor) -> None:
    status, found = doctor.json(f"{doctor.app('ftp://user:geheim@localhost')}:app")
    assert status == 1
    assert words(found["endpoints"][1]["findings"]) == ["configuration"]
    assert "geheim" not in json.dumps(found)


def test_a_cache_that_is_set_up_later(doctor: Doctor) -> None:
    source = APP.format(url="memory://", options="").replace(
        "@streams.cached()", "@stream_cached(alias='of_later')"
    )
    _, found = doctor.json(f"{doctor.module(source)}:app")
    fine = found["endpoints"][1]
    assert (fine["store"], fine["findings"]) == (None, [])
    assert words(fine["notes"]) == ["store-later", "authorization"]


# -- imports --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--factory"]])
def test_a_function_that_makes_the_application(arguments: list[str], doctor: Doctor) -> None:
    _, found = doctor.json(f"{doctor.app()}:create_app", *arguments)
    assert len(found["endpoints"]) == 2


FAILURES = {
    "nowhere:app": "there is no module nowhere: start the command in the directory",
    "{}": "names no application: write module:app",
    "{}:nothing": "has no nothing: try {}:app",
    "{}:streams": "is a StreamCache and no application",
    "{}:json": "is a module and no application",
    "{}:failing": "failed: ValueError",
    "{}:ending": "failed: SystemExit",
    "./{}.py:app": "is no name of a module: write shop.main for shop/main.py",
    "{}.py:app": "is no name of a module: write shop.main for shop/main.py",
    ".{}:app": "is no name of a module: write shop.main for shop/main.py",
    "{}:function": "is a function without routes",
}


@pytest.mark.parametrize("target", FAILURES)
def test_what_is_no_application(target: str, doctor: Doctor) -> None:
    source = APP.format(url="memory://", options="") + (
        "import json\ndef failing():\n    raise ValueError('geheim')\n"
        "def ending():\n    raise SystemExit(0)\n"
        "async def function(scope, receive, send): ...\n"
    )
    name = doctor.module(source)
    status, out, err = doctor(target.format(name))
    assert (status, out) == (2, "")
    line = err.splitlines()[-1]
    assert line.startswith("stream-cached doctor: ")
    assert FAILURES[target].format(name) in line
    assert "Traceback" not in err
    assert "geheim" not in err


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import nothing_of_this_name", "needs the module nothing_of_this_name: install it"),
        ("1 +", "SyntaxError"),
        ("import os\nraise RuntimeError(os.environ['DATABASE_URL'])", "RuntimeError"),
        ("import os\nos.environ['A_VARIABLE']", "KeyError: 'A_VARIABLE'"),
        ("import os\n{}[os.environ['DATABASE_URL']]", "KeyError: '***'"),
        ("raise SystemExit('no')", "SystemExit"),
    ],
)
def test_a_module_that_can_not_be_imported(
    source: str, told: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://user:geheim@localhost/shop")
    name = doctor.module(source)
    status, out, err = doctor(f"{name}:app")
    assert (status, out) == (2, "")
    assert told in err
    assert "geheim" not in err
    assert len(err.splitlines()) == 1
    status, _, err = doctor(f"{name}:app", "--traceback")
    assert status == 2
    assert err.startswith("Traceback")


def test_no_target(doctor: Doctor) -> None:
    status, _, err = doctor()
    assert status == 2
    assert "name the application" in err
