"""What `stream-cached doctor` says of views is what happens when they are asked."""

from __future__ import annotations

import types
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import include, path, re_path
from django.views import View

from stream_cached.command.django_views import examined_project
from stream_cached.command.examine import Endpoint
from stream_cached.command.main import main
from stream_cached.django import cache_stream
from stream_cached.http.cache_status import MemberRead
from tests.django.conftest import Site


def stream() -> StreamingHttpResponse:
    return StreamingHttpResponse(iter([b"1", b"2"]))


@cache_stream(60, vary=("Accept-Language",), query=("page",), key_ignore=("number",))
def fine(request: HttpRequest, number: int = 0) -> Any:
    return stream()


@cache_stream()
def cookies(request: HttpRequest, number: int = 0) -> Any:
    request.COOKIES.get("name")
    return stream()


@cache_stream()
def agent(request: HttpRequest, number: int = 0) -> Any:
    request.headers.get("user-agent")
    return stream()


@cache_stream()
def handed_on(request: HttpRequest, number: int = 0) -> Any:
    return HttpResponse(str(dir(request)))


@cache_stream(cache="nowhere")
def no_cache(request: HttpRequest) -> Any:
    return stream()


def plain(request: HttpRequest) -> StreamingHttpResponse:
    return stream()


class Page(View):
    @cache_stream(60, per_user=True)
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")

    @cache_stream(60)
    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("page")


def found() -> dict[str, Endpoint]:
    endpoints = examined_project().endpoints
    return {f"{each.methods[0]} {each.path}": each for each in endpoints}


def words(endpoint: Endpoint) -> list[str]:
    return [said.reason for said in endpoint.findings]


@pytest.mark.parametrize(
    ("view", "expected"), [(fine, []), (cookies, ["request-read"]), (agent, ["request-read"])]
)
def test_a_finding_is_what_a_request_is_told(view: Any, expected: list[str], site: Site) -> None:
    client = site(view, middleware=[])
    said = found()[f"GET /{view.__name__}"]
    assert words(said) == expected
    answers = [client.get(f"/{view.__name__}") for _ in range(2)]
    for answer in answers:
        b"".join(answer.streaming_content)  # type: ignore[attr-defined]
    status = MemberRead.read(answers[1].headers["Cache-Status"])
    assert status is not None
    assert [reason.word for reason in status.reasons] == expected


def test_what_is_in_the_key(site: Site) -> None:
    site(fine)
    endpoint = found()["GET /fine/<int:number>"]
    assert endpoint.key == (
        *("method", "scheme", "host", "path", "query (page)", "header accept-language"),
        *("language", "time zone"),
    )
    assert endpoint.arguments == {"number": "left out by key_ignore="}
    assert endpoint.ttl == "60 s"
    assert endpoint.name.endswith(".fine")


def test_what_is_handed_on_depends_on_the_request(site: Site) -> None:
    site(handed_on)
    assert words(found()["GET /handed_on"]) == []


def test_classes_includes_and_what_is_not_decorated(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = [re_path(r"^page/$", Page.as_view()), path("plain", plain), path("no", no_cache)]
    urls: Any = types.ModuleType("urls_of_doctor")
    urls.urlpatterns = [path("in/", include(inner))]
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "tests.django.project")
    site(ROOT_URLCONF=urls)
    endpoints = found()
    assert words(endpoints["GET /in/page/"]) == []
    assert "user" in endpoints["GET /in/page/"].key
    assert words(endpoints["POST /in/page/"]) == ["method"]
    assert words(endpoints["GET /in/no"]) == ["configuration"]
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "GET /in/plain" in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_fix_is_one_for_views(site: Site) -> None:
    site(fine)
    [note] = found()["GET /fine"].notes
    assert (note.reason, "per_user=True" in note.fix) == ("authorization", True)
