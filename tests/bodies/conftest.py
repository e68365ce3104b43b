"""One S3 for all tests of the stores of bodies: moto takes more than a second to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import server_or_skip
from tests.support.servers import S3Server


@pytest.fixture(scope="package")
def s3_server() -> Iterator[S3Server]:
    with server_or_skip(S3Server) as server:
        yield server
