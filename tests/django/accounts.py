"""Makes users in the database of a server, and prints what each of them sends to be known."""

from __future__ import annotations

import json
import sys

import tests.django.project  # noqa: F401

# Django is configured now.
from django.contrib.auth.models import User  # isort: skip
from django.core.management import call_command  # isort: skip
from django.test import Client  # isort: skip
from rest_framework.authtoken.models import Token  # isort: skip


def made(name: str) -> dict[str, dict[str, str]]:
    """Make a user; return the headers by which it is known, by what knows it."""
    user = User.objects.create_user(name)
    client = Client()
    client.force_login(user)
    token = Token.objects.create(user=user)
    return {
        "session": {"Cookie": f"sessionid={client.cookies['sessionid'].value}"},
        "token": {"Authorization": f"Token {token}"},
    }


if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    sys.stdout.write(json.dumps({name: made(name) for name in sys.argv[1:]}))
