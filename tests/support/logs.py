"""What the library has said in the log."""

from __future__ import annotations

import pytest


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The texts of its warnings, in their order."""
    records = [record for record in caplog.records if record.name == "stream_cached"]
    return [record.getMessage() for record in records if record.levelname == "WARNING"]
