"""
A small shop that exports its orders: an application whose tests are in `test_app.py`.

    cd examples/testing
    python -m pytest
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse

from stream_cached import InKey, StreamCache

#: In the tests, memory stands for this server.
streams = StreamCache("redis://localhost:6379/0", ttl="10m", stale_while_revalidate=60)


class Orders:
    """The orders of the shop; a real one has a database."""

    def __init__(self) -> None:
        self.by_year = {2024: ["Ada,1", "Grace,2"], 2025: ["Edsger,3"]}
        self.runs = 0

    async def rows(self, year: int) -> AsyncIterator[str]:
        """Yield the orders of a year as lines of CSV."""
        self.runs += 1
        for row in self.by_year.get(year, []):
            yield f"{row}\n"


orders = Orders()


def get_orders() -> Orders:
    """Return the orders; tests put others there."""
    return orders


class User:
    """Who asks."""

    def __init__(self, name: str) -> None:
        self.name = name


def current_user(authorization: Annotated[str, Header()] = "") -> User:
    """Return who asks, by the name in a header; a real shop checks a password."""
    kind, _, name = authorization.partition(" ")
    if kind != "Basic" or not name:
        raise HTTPException(401)
    return User(name)


app = FastAPI(lifespan=streams.lifespan)


@app.get("/orders/{year}.csv")
@streams.cached(tags=("orders:{year}",), key_ignore=("orders",))
async def export(
    year: int, orders: Annotated[Orders, Depends(get_orders)], columns: str = "all"
) -> StreamingResponse:
    """Stream the orders of a year."""
    return StreamingResponse(orders.rows(year), media_type="text/csv")


@app.post("/orders/{year}")
async def add(
    year: int, row: str, orders: Annotated[Orders, Depends(get_orders)]
) -> dict[str, int]:
    """Add an order, and forget the exports of its year."""
    orders.by_year.setdefault(year, []).append(row)
    await streams.invalidate_tags(f"orders:{year}")
    return {"orders": len(orders.by_year[year])}


@app.get("/me")
@streams.cached()
async def me(
    user: Annotated[User, Depends(current_user), InKey(lambda user: user.name)],
) -> dict[str, str]:
    """Say who asks: each user has an entry of its own."""
    return {"name": user.name}


@app.get("/login")
@streams.cached()
async def login() -> StreamingResponse:
    """Set a cookie, which is one client's own: this is never stored."""

    async def page() -> AsyncIterator[str]:
        yield "welcome"

    return StreamingResponse(page(), headers={"Set-Cookie": "session=1"})
