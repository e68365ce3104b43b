"""What is told of an error that an object store answers with."""

from __future__ import annotations

import pytest
from obstore import exceptions

from stream_cached.bodies.object_errors import store_error
from stream_cached.bodies.protocol import MissingBodyError

AZURE = (
    "Error performing PUT http://127.0.0.1/account/container/x in 7.2ms - Server returned non-2xx "
    "status code: 404 Not Found: <Error>\n  <Code>{}</Code>\n  <Message>It says why.\n"
    "RequestId:c9311eef\nTime:2026-01-01T00:00:00Z</Message>\n</Error>\n\nDebug source:\nmore"
)
S3 = "Error performing GET http://127.0.0.1/bucket/x in 1ms - <Code>{}</Code><Message>No.</Message>"


@pytest.mark.parametrize(
    ("text", "told", "fix"),
    [
        (AZURE.format("ContainerNotFound"), "write: ContainerNotFound: It says why.", "create"),
        (AZURE.format("AuthenticationFailed"), "write: AuthenticationFailed: It says", "credentia"),
        (S3.format("NoSuchBucket"), "write: NoSuchBucket: No.", "create the bucket"),
        (S3.format("RequestTimeTooSkewed"), "write: RequestTimeTooSkewed: No.", "clock"),
        (S3.format("PermanentRedirect"), "write: PermanentRedirect: No.", "region="),
        (S3.format("SlowDown"), "write: SlowDown: No.", ""),
        ("Error performing PUT http://h/x in 1s - no answer\n\nDebug source:\n", "PUT: no ans", ""),
    ],
)
def test_an_error_is_told_on_one_line(text: str, told: str, fix: str) -> None:
    error = store_error("write", exceptions.GenericError(text))
    assert told in str(error)
    assert "\n" not in str(error)
    assert (fix in error.fix) if fix else not error.fix


def test_an_object_that_is_not_there_is_no_failure_of_the_store() -> None:
    error = store_error("open", FileNotFoundError(S3.format("NoSuchKey")))
    assert isinstance(error, MissingBodyError)


def test_a_permission_that_is_missing_is_named() -> None:
    error = store_error("write", exceptions.PermissionDeniedError(S3.format("AccessDenied")))
    assert "s3:PutObject" in error.fix
