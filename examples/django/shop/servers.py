"""What servers are given: `gunicorn shop.servers:wsgi`, `uvicorn shop.servers:asgi`."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

wsgi = get_wsgi_application()
asgi = get_asgi_application()
