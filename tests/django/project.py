"""A project of Django, as servers run it and as tests in this process use it.

Its settings come from the environment, so that each server process has its own.
"""

from __future__ import annotations

import os

import django
from django.conf import settings

APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.sites",
    "rest_framework",
    "rest_framework.authtoken",
    "stream_cached.django",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]


def set_up() -> None:
    """Configure Django, once in a process."""
    if settings.configured:
        return
    outer = ["django.middleware.gzip.GZipMiddleware"] if os.environ.get("APP_GZIP") else []
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": os.environ.get("APP_DATABASE", ":memory:"),
                "TEST": {"NAME": None},
            }
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=APPS,
        MIDDLEWARE=[*outer, *MIDDLEWARE],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        ROOT_URLCONF="tests.django.urls",
        SECRET_KEY="for tests only",
        SITE_ID=1,
        STREAM_CACHED={
            "default": {
                "URL": os.environ.get("APP_CACHE", "memory://"),
                "BODIES": os.environ.get("APP_BODIES") or None,
                "INLINE_MAX": 0 if os.environ.get("APP_BODIES") else "256KiB",
                "TTL": 60,
            }
        },
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                    ]
                },
            }
        ],
        LANGUAGES=[("en", "English"), ("de", "German")],
        USE_TZ=True,
    )
    django.setup()


set_up()
