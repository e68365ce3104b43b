"""The command line as a whole."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from stream_cached.command.main import main
from stream_cached.command.printing import Colours, labelled
from tests.support.process import ROOT


def test_the_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(f"    {command} " in out for command in ("demo", "doctor", "probe"))


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["demo", "--port", "1"], ["probe"]])
def test_what_is_no_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: stream-cached" in capsys.readouterr().err


@pytest.mark.full
def test_nothing_but_what_the_package_needs_is_imported() -> None:
    code = """
        import sys
        for name in ("cashews", "django", "fastapi", "httpx", "pytest", "redis", "uvicorn"):
            sys.modules[name] = None
        from stream_cached.command.main import main
        sys.exit(main(["doctor", "http:HTTPStatus"]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("stream-cached doctor: http:HTTPStatus is a")


class Terminal:
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variable", "value", "has_colours"),
    [("NO_COLOR", "1", False), ("TERM", "dumb", False), ("TERM", "xterm", True)],
)
def test_colours_are_for_terminals_that_want_them(
    variable: str, value: str, has_colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(variable, value)
    colours = Colours(Terminal())  # type: ignore[arg-type]
    assert ("\x1b" in colours.finding("text")) is has_colours
    assert Colours().finding("text") == "text"


def test_long_words_stay_whole() -> None:
    url = f"redis://{'a' * 100}"
    assert list(labelled("store", url)) == [f"  store     {url}"]
