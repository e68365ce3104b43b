"""The README and the docs: their code runs, their tables are the code's, their links resolve."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from aiocache.base import SENTINEL

from stream_cached import (
    CachedEndpoint,
    CompressionSerializer,
    FallbackCache,
    Limits,
    MemoryCache,
    NotCached,
    StreamCache,
    aclose,
    stream_cached,
)
from stream_cached.backends import urls
from stream_cached.backends.resolve import OWN_MEMORY
from stream_cached.django import cache_stream, freeze_header
from stream_cached.option_checks import NOT_GIVEN
from stream_cached.prometheus import PrometheusMetrics
from tests.conftest import Serve, Spawn
from tests.support.gates import wait_until
from tests.support.http_client import RawClient, fetch
from tests.support.process import ROOT
from tests.support.runs import FALLBACK_HIT, FALLBACK_MISS, HIT, MISS

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _snippets(page: Path) -> list[str]:
    return [code for language, code in _FENCE.findall(TEXTS[page]) if language == "python"]


SNIPPETS = [
    pytest.param(
        code, id=f"{_name(page)}-{number}", marks=() if page == README else pytest.mark.full
    )
    for page in PAGES
    for number, code in enumerate(_snippets(page), 1)
]


# -- the code -----------------------------------------------------------------------------------


#: What the snippets of other libraries import; it need not be installed.
OTHERS = frozenset({"fastapi_cache", "hishel", "redis_fastapi"})


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_each_snippet_runs(snippet: str, tmp_path: Path) -> None:
    imported = {name.partition(".")[0] for name in re.findall(r"^from (\S+)", snippet, flags=re.M)}
    if any(find_spec(name) is None for name in imported & OTHERS):
        compile(snippet, "snippet.py", "exec")
        return
    script = tmp_path / "snippet.py"
    script.write_text(snippet, encoding="utf-8")
    subprocess.run([sys.executable, "-W", "error", script], check=True, timeout=30, cwd=ROOT)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_code_stands_only_in_blocks_that_are_looked_at(page: Path) -> None:
    fences = re.findall(r"^ *(?:```|~~~).*$", TEXTS[page], flags=re.MULTILINE)
    assert fences[::2] == [f"```{language}" for language, _ in _FENCE.findall(TEXTS[page])]
    assert set(fences[::2]) <= {"```python", "```console"}


def test_the_example_answers_as_the_readme_shows(spawn: Spawn, tmp_path: Path) -> None:
    (tmp_path / "readme_app.py").write_text(_snippets(README)[0], encoding="utf-8")
    server = spawn("readme_app:app", environment={"PYTHONPATH": f"{tmp_path}:{ROOT}"})

    answers = [fetch(server.port, "/export") for _ in range(2)]

    shown = re.findall(r"^cache-status: (.+)$", TEXTS[README], flags=re.MULTILINE)
    assert [answer.header("Cache-Status") for answer in answers] == shown == [MISS, HIT]
    length = re.findall(r"^content-length: (.+)$", TEXTS[README], flags=re.MULTILINE)
    assert [answers[1].header("Content-Length")] == length
    kinds = re.findall(r"^content-type: (.+)$", TEXTS[README], flags=re.MULTILINE)
    assert [answer.header("Content-Type") for answer in answers] == kinds
    assert answers[0].text == answers[1].text == "0,0\n1,1\n2,4\n3,9\n4,16\n"


@pytest.mark.full
def test_the_example_answers_without_a_redis_with_one_warning(spawn: Spawn, tmp_path: Path) -> None:
    (line,) = re.findall(r'`(@stream_cached\(.+"redis://.+)`', TEXTS[README])
    example, changes = re.subn(r"^@stream_cached\(.+$", line, _snippets(README)[0], flags=re.M)
    assert changes == 1
    nobody_listens = example.replace("localhost:6379", "127.0.0.1:9")
    (tmp_path / "readme_app.py").write_text(nobody_listens, encoding="utf-8")
    server = spawn("readme_app:app", environment={"PYTHONPATH": f"{tmp_path}:{ROOT}"})

    answers = [fetch(server.port, "/export") for _ in range(3)]

    assert {answer.status for answer in answers} == {200}
    assert all(answer.complete and answer.text.endswith("4,16\n") for answer in answers)
    statuses = [answer.header("Cache-Status") for answer in answers]
    assert statuses == [FALLBACK_MISS, FALLBACK_HIT, FALLBACK_HIT]
    assert server.output().count("requests are answered without it") == 1


@pytest.mark.full
def test_the_program_of_the_recipe_ends_with_its_last_client(serve: Serve) -> None:
    (recipe,) = [code for code in _snippets(DOCS / "recipes.md") if "PROGRAM" in code]
    endless = "import os, time\nwhile True: print(os.getpid(), flush=True); time.sleep(0.02)"
    app: dict[str, Any] = {"__name__": "recipe"}
    exec(recipe.replace("for n in range(3): print(n, flush=True)", repr(endless)[1:-1]), app)
    server = serve(app["app"])

    with RawClient(server.port) as first, RawClient(server.port) as second:
        for client in (first, second):
            client.send("GET", "/report")
            client.read_head()
            pid = int(client.read_until(20).split()[0])
        first.abort()
        second.read_until(len(second.response.body) + 100)
        second.abort()
    wait_until(lambda: not _is_running(pid))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# -- the tables ---------------------------------------------------------------------------------


def test_the_table_of_reasons_is_the_one_of_the_code() -> None:
    after = TEXTS[DOCS / "reasons.md"].partition("| `detail` | Not cached because | Fix |\n")[2]
    rows = after.partition("\n\n")[0].splitlines()[1:]
    assert rows == [f"| `{each.word}` | {each.sentence} | {each.fix} |" for each in NotCached]


def _options() -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(stream_cached).parameters)
    assert parameters.pop("kwargs").kind is inspect.Parameter.VAR_KEYWORD
    # The decorator takes each limit as a keyword argument, too.
    return parameters | dict(inspect.signature(Limits).parameters)


def _value(shown: str) -> object:
    # `Limits()` is the one default that is no literal.
    return Limits() if shown == "`Limits()`" else ast.literal_eval(shown.strip("`"))


def test_the_tables_of_options_name_those_of_the_decorator_with_their_defaults() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (.+?) \| .+? \| .+ \|$", TEXTS[DOCS / "options.md"], flags=re.MULTILINE
    )
    options = _options()
    assert sorted(name for name, _ in rows) == sorted(options)
    for name, shown in rows:
        default = options[name].default
        if default in (SENTINEL, NOT_GIVEN, OWN_MEMORY) or callable(default):
            assert "`" not in shown, name
        elif isinstance(default, frozenset):
            assert set(ast.literal_eval(shown.strip("`"))) == default, name
        else:
            assert _value(shown) == default, name


def test_every_parameter_that_is_named_exists() -> None:
    functions = (
        stream_cached,
        FallbackCache,
        Limits,
        MemoryCache,
        aclose,
        CachedEndpoint.invalidate,
        StreamCache.invalidate_tags,
        CompressionSerializer,
        cache_stream,
        freeze_header,
        PrometheusMetrics,
    )
    known = {name for each in functions for name in inspect.signature(each).parameters}
    known |= {*urls._REDIS, *urls._MEMORY, *urls._MEMCACHED}
    # Of a call; of aiocache's classes, in `kwargs`.
    known |= {"cache_read", "cache_write", "aiocache_wait_for_write", "request", "endpoint", "port"}
    # Of a route of FastAPI.
    known |= {"response_class"}
    for page in PAGES:
        # Half of what is on these pages is that of other libraries.
        if page.name not in {"cashews.md", "coming-from.md", "comparison.md"}:
            named = set(re.findall(r"`([a-z_]+)=", TEXTS[page]))
            assert named <= known, _name(page)


def test_every_extra_that_is_named_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = set(re.findall(r"stream-cached\[([a-z]+)\]", "".join(TEXTS.values())))
    assert {"cashews", "demo", "memcached", "redis"} <= named
    assert named <= project["optional-dependencies"].keys()


def test_every_folder_of_the_package_is_in_the_layout() -> None:
    layout = TEXTS[DOCS / "contributing.md"]
    for path in (ROOT / "stream_cached").iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"| `{path.name}/` |" in layout, path.name
        elif path.suffix == ".py" and path.name != "__init__.py":
            assert f"`{path.name}`" in layout, path.name


# -- the pages ----------------------------------------------------------------------------------


def test_the_readme_has_no_more_than_130_lines() -> None:
    assert len(TEXTS[README].splitlines()) <= 130


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_each_relative_link_leads_to_a_page_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", _FENCE.sub("", TEXTS[page])):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in _anchors(target), link


def test_each_page_is_in_the_index() -> None:
    index = DOCS / "README.md"
    for page in PAGES:
        if page.parent == DOCS and page != index:
            assert f"({page.name})" in TEXTS[index], page.name


def test_the_site_has_the_pages_of_the_index_in_its_order() -> None:
    index = re.findall(r"^\| \[[^]]+\]\(([^)#]+)\)", TEXTS[DOCS / "README.md"], flags=re.MULTILINE)
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert re.findall(r"^ +- .+: (\S+\.md)$", settings, flags=re.MULTILINE) == ["README.md", *index]
