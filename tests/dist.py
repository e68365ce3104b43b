"""
Checks what `make dist` has built: `python -m tests.dist DIRECTORY PYTHON...`.

Each Python gets a fresh environment with the wheel, in which the README is followed from its first
command on: its `pip install`, its example under its `uvicorn`, and its requests, which have to be
answered as it shows. The sdist is installed in another one. Nothing there imports this checkout.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.process import HOST, free_port

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

#: Seconds that a command may take; those that ask a package index take longest.
_PATIENCE = 300

_NO_PATHS = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


class DistError(Exception):
    """What was built is not what it should be."""


def main(directory: Path, pythons: list[str]) -> None:
    (wheel,) = directory.glob("*.whl")
    (sdist,) = directory.glob("*.tar.gz")
    _check_files(wheel, sdist)
    for python in pythons:
        with _environment(python, wheel) as folder:
            _follow_readme(folder)
        print(f"{python}: {wheel.name} does what the README says", flush=True)
        with _environment(python, sdist) as folder:
            _run([str(_program(folder, "stream-cached")), "--help"])
        print(f"{python}: {sdist.name} can be installed", flush=True)


def _check_files(wheel: Path, sdist: Path) -> None:
    """Look for each file of the package in both, and for none beside it in the wheel."""
    tracked = subprocess.run(
        ["git", "ls-files", "stream_cached"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    expected = set(tracked.stdout.split())
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    if found != expected:
        raise DistError(f"{wheel.name} differs from the package in {sorted(found ^ expected)}")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = expected | {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "Makefile"}
    if missing := sorted(wanted - names):
        raise DistError(f"{sdist.name} has no {missing}")


@contextlib.contextmanager
def _environment(python: str, built: Path) -> Iterator[Path]:
    """A folder with a virtual environment, in which the README's `pip install` has been run."""
    # The index may have a release already: this one is what is looked at.
    requirement = shlex.split(_commands("pip install")[0])[-1]
    requirement = requirement.replace("stream-cached", str(built), 1)
    with tempfile.TemporaryDirectory(prefix="stream-cached-dist-") as name:
        folder = Path(name)
        _run([python, "-m", "venv", str(folder / "venv")])
        pip = [str(_program(folder, "python")), "-m", "pip", "--disable-pip-version-check"]
        _run([*pip, "install", "--quiet", "--no-input", requirement])
        _run([*pip, "check"])
        yield folder


def _program(folder: Path, name: str) -> Path:
    return folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / name


def _follow_readme(folder: Path) -> None:
    name, *arguments = _commands("pip install")[1].split()
    (folder / "app.py").write_text(_first_snippet(), encoding="utf-8")
    with _serving([str(_program(folder, name)), *arguments], folder) as port:
        _check_answers(port)
    command = str(_program(folder, "stream-cached"))
    _run([command, "doctor", "app:app"], cwd=folder)
    _run([command, "demo"], cwd=folder)


def _commands(first: str) -> list[str]:
    """The commands of the README's block that begins with this one."""
    (block,) = re.findall(rf"```console\n(\$ {first}.+?)```", README, flags=re.DOTALL)
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]


def _first_snippet() -> str:
    (snippet, *_) = re.findall(r"```python\n(.+?)```", README, flags=re.DOTALL)
    return str(snippet)


def _check_answers(port: int) -> None:
    """Ask as often as the README does, and compare what it shows."""
    (block,) = re.findall(r"```console\n(\$ curl .+?)```", README, flags=re.DOTALL)
    for shown in block.split("$ curl -i ")[1:]:
        address, *lines = shown.strip().splitlines()
        url = f"http://{HOST}:{port}/{address.partition('/')[2]}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            length = len(answer.read())
            headers = {name.lower(): value for name, value in answer.headers.items()}
        for line in lines[1:-1]:
            name, _, value = line.partition(": ")
            if headers.get(name) != value:
                raise DistError(f"{url} answers with {name}: {headers.get(name)}, not {value}")
        if not length:
            raise DistError(f"{url} answers with no body")


@contextlib.contextmanager
def _serving(command: list[str], folder: Path) -> Iterator[int]:
    port = free_port()
    log = folder / "log"
    with log.open("w", encoding="utf-8") as output:
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=folder,
            env=_NO_PATHS,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_for(server, port, log)
            yield port
        finally:
            server.terminate()
            server.wait(30)


def _wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while f":{port}" not in log.read_text(encoding="utf-8"):
        if server.poll() is not None or time.monotonic() > deadline:
            raise DistError(f"the server does not start:\n{log.read_text(encoding='utf-8')}")
        time.sleep(0.05)


def _run(command: list[str], cwd: Path | None = None) -> None:
    result = subprocess.run(
        command,
        cwd=cwd,
        env=_NO_PATHS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    if result.returncode:
        raise DistError(f"{shlex.join(command)} fails:\n{result.stdout}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]).resolve(), sys.argv[2:])
    except DistError as exc:
        sys.exit(str(exc))
