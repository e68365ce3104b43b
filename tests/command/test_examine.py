"""What doctor says of endpoints is what happens when they are asked."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from stream_cached.command.examine import Endpoint, Examined, examined
from stream_cached.command.routes import routes_of
from stream_cached.command.warned import Warned
from stream_cached.http.cache_status import MemberRead
from tests.command import shop

USER = {"Authorization": "Bearer abc"}

#: How each endpoint is asked, and the words of doctor's findings.
ENDPOINTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "/export/{year}": ({}, []),
    "/mine": ({"headers": USER}, []),
    "/private": ({"headers": USER}, ["authorization"]),
    "/ask": ({"method": "POST", "json": {"id": 1}}, ["method"]),
    "/asked": ({"method": "POST", "json": {"id": 1}}, []),
    "/v1/reports/cookie": ({}, ["request-read"]),
    "/v1/reports/agent": ({}, []),
    "/v1/reports/client": ({}, ["request-read"]),
    "/v1/reports/upload": ({"method": "POST", "files": {"file": b"1"}}, ["upload"]),
    "/v1/reports/database": ({}, []),
    "/v1/reports/own-database": ({"headers": USER}, ["argument"]),
    "/v1/reports/own-database/left-out": ({"headers": USER}, ["argument"]),
    "/pages/of/starlette": ({}, []),
    "/inner/items": ({}, []),
}


@pytest.fixture(scope="module")
def found() -> Examined:
    return examined(routes_of(shop.app), Warned())


def endpoint_of(found: Examined, path: str) -> Endpoint:
    return next(each for each in found.endpoints if each.path == path)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_finding_is_what_a_request_is_told(path: str, found: Examined) -> None:
    given, words = ENDPOINTS[path]
    assert [said.reason for said in endpoint_of(found, path).findings] == words
    with TestClient(shop.app) as client:
        arguments = {"method": "GET", "url": path.replace("{year}", "2024"), **given}
        answers = [client.request(**arguments) for _ in range(2)]
    assert [each.status_code for each in answers] == [200, 200]
    status = MemberRead.read(answers[1].headers["Cache-Status"])
    assert status is not None
    assert status.is_hit is not bool(words)
    assert [reason.word for reason in status.reasons] == words
