"""Entries need little of S3. Whether a real one would do as it says is what `bodies/` tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.quick_s3 import QuickS3
from tests.support.servers import S3Server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 for all these tests, of which most use none."""
    with QuickS3() as server:
        yield server
