"""The settings of the example."""

from __future__ import annotations

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = "of an example"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "rest_framework",
    "stream_cached.django",  # the system checks of STREAM_CACHED
    "shop",
]

MIDDLEWARE = [
    "django.middleware.gzip.GZipMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", BASE_DIR / "db.sqlite3"),
    }
}

#: Redis where there is one, as in STREAM_CACHED_URL=redis://localhost/0, or else memory. Large
#: exports are files, not in the memory of Redis.
STREAM_CACHED = {
    "default": {
        "URL": os.environ.get("STREAM_CACHED_URL", "memory://"),
        "BODIES": f"file://{os.environ.get('SHOP_BODIES', BASE_DIR / 'bodies')}",
        "TTL": "10m",
    },
}
