"""The applications that servers of Django are given."""

from __future__ import annotations

import atexit
import os

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

import tests.django.project  # noqa: F401  (it configures Django)

wsgi = get_wsgi_application()
asgi = get_asgi_application()

if os.environ.get("APP_WARM"):
    # What a master process does that loads the application before it forks.
    from django.test import Client

    Client().get("/small/warm")
    # As it ends, each process would write to all that it shares with the others, only to free it:
    # three times 60 MB.
    atexit.register(os._exit, 0)

if __name__ == "__main__":
    import sys
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    class _Quiet(WSGIRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    make_server("127.0.0.1", int(sys.argv[1]), wsgi, handler_class=_Quiet).serve_forever()
