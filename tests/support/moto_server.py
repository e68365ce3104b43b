"""moto's S3, which frees what it was given when it is reset.

`python -m tests.support.moto_server PORT` serves. By itself, moto leaves to the garbage collector
what tests have uploaded: parts of five megabytes and more, and it comes seldom.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

from tests.support.process import HOST

_moto = DomainDispatcherApplication(create_backend_app)


def _app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    answer: Iterable[bytes] = _moto(environ, start_response)
    if environ["PATH_INFO"] == "/moto-api/reset":
        gc.collect()
    return answer


if __name__ == "__main__":
    run_simple(HOST, int(sys.argv[1]), _app, threaded=True)
