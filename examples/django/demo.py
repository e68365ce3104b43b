"""Serve the example with two servers, and measure: `python examples/django/demo.py`.

It prints when the first and the last of ten rows arrive, without the cache (plain), from a run
(miss) and from the cache (hit).
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent

SERVERS = {
    "WSGI": ("gunicorn", "shop.servers:wsgi", "--bind=127.0.0.1:{port}", "--log-level=error"),
    "ASGI": ("uvicorn", "shop.servers:asgi", "--port={port}", "--log-level=error"),
}

VIEWS = {"sync": "orders/2024.csv", "async": "async/orders/2024.csv"}


def fetch(port: int, path: str) -> tuple[float, float]:
    """Return the seconds to the first row, and to the last one."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", f"/{path}")
    response = connection.getresponse()
    response.readline()
    response.readline()
    first = time.monotonic() - began
    response.read()
    connection.close()
    return first, time.monotonic() - began


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            fetch(port, "orders/1.csv")
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("the server does not answer")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_orders() -> None:
    """Make the tables, and ten orders."""
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    from shop.models import Order

    Order.objects.bulk_create(
        Order(year=2024, customer=f"customer {number}", total=number) for number in range(10)
    )


def measure(name: str, command: tuple[str, ...]) -> None:
    port = free_port()
    words = [word.format(port=port) for word in command]
    server = subprocess.Popen([sys.executable, "-W", "ignore", "-m", *words], cwd=HERE)
    try:
        wait_for(port)
        for view, path in VIEWS.items():
            for which, target in (("plain", f"plain/{path}"), ("miss", path), ("hit", path)):
                first, last = fetch(port, target)
                print(f"{name:7} {view:7} {which:7} {first:9.2f} s {last:9.2f} s", flush=True)
    finally:
        server.terminate()
        server.wait(15)


def main() -> None:
    sys.path.insert(0, str(HERE))
    with tempfile.TemporaryDirectory() as directory:
        os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
        os.environ["SHOP_DATABASE"] = str(Path(directory) / "db.sqlite3")
        os.environ["SHOP_BODIES"] = str(Path(directory) / "bodies")
        os.environ.setdefault("SHOP_PAUSE", "0.1")
        make_orders()
        print("server  view    which     first row    last row")
        for name, command in SERVERS.items():
            measure(name, command)


if __name__ == "__main__":
    main()
