"""An application with endpoints of many kinds, for doctor."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Header, Request, UploadFile
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from starlette.endpoints import HTTPEndpoint
from starlette.routing import Mount, Route, Router

from stream_cached import InKey, NotInKey, StreamCache

streams = StreamCache("memory://?namespace=shop", ttl="10m")
bearer = HTTPBearer()


class User(BaseModel):
    id: int


def current_user(token: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> User:
    return User(id=len(token.credentials))


def connection() -> Iterator[sqlite3.Connection]:
    found = sqlite3.connect(":memory:", check_same_thread=False)
    yield found
    found.close()


def own_connection(
    user: Annotated[User, Depends(current_user)],
) -> Iterator[sqlite3.Connection]:
    found = sqlite3.connect(":memory:", check_same_thread=False)
    found.execute(f"pragma user_version = {user.id}")
    yield found
    found.close()


async def rows() -> AsyncIterator[str]:
    for number in range(3):
        yield f"{number}\n"


def stream() -> StreamingResponse:
    return StreamingResponse(rows(), media_type="text/csv")


app = FastAPI()
router = APIRouter(prefix="/reports")


@app.get("/export/{year}")
@streams.cached(vary=("Accept-Language",))
async def export(year: int, page: int | None = None) -> StreamingResponse:
    return stream()


@streams.cached()
@app.get("/above")
async def above() -> StreamingResponse:
    return stream()


@app.get("/mine")
@streams.cached()
async def mine(
    user: Annotated[User, Depends(current_user), InKey(lambda user: user.id)],
) -> StreamingResponse:
    return stream()


@app.get("/private")
@streams.cached()
async def private(user: Annotated[User, Depends(current_user)]) -> StreamingResponse:
    return stream()


@app.post("/ask")
@streams.cached()
async def ask(question: User) -> StreamingResponse:
    return stream()


@app.post("/asked", name="asked")
@streams.cached(methods=("POST",))
async def asked(question: User) -> StreamingResponse:
    return stream()


@router.get("/cookie")
@streams.cached()
async def cookie(request: Request) -> StreamingResponse:
    request.cookies.get("name")
    return stream()


@router.get("/agent")
@streams.cached(vary=("User-Agent",))
async def agent(request: Request) -> StreamingResponse:
    _ = request.headers["user-agent"]
    return stream()


@router.get("/client")
@streams.cached()
async def client(request: Request) -> StreamingResponse:
    _ = request.client
    return stream()


@router.get("/traced")
@streams.cached()
async def traced(x_request_id: Annotated[str, Header()] = "") -> StreamingResponse:
    return stream()


@router.post("/upload")
@streams.cached(methods=("POST",))
async def upload(file: UploadFile) -> StreamingResponse:
    return stream()


@router.get("/database")
@streams.cached()
async def database(
    db: Annotated[sqlite3.Connection, Depends(connection)],
) -> StreamingResponse:
    return stream()


@router.get("/own-database")
@streams.cached(authorized="share")
async def own_database(
    db: Annotated[sqlite3.Connection, Depends(own_connection)],
) -> StreamingResponse:
    return stream()


@router.get("/own-database/left-out")
@streams.cached(authorized="share")
async def left_out(
    db: Annotated[sqlite3.Connection, Depends(own_connection), NotInKey],
) -> StreamingResponse:
    return stream()


class Basket:
    """Whose it is can't be told from its class."""


def basket(request: Request) -> Basket:
    request.cookies.get("basket")
    return Basket()


@router.get("/basket")
@streams.cached()
async def of_basket(
    basket: Annotated[Basket, Depends(basket), NotInKey],
) -> StreamingResponse:
    return stream()


@router.get("/checked", dependencies=[Depends(bearer)])
@streams.cached()
async def checked() -> StreamingResponse:
    return stream()


@router.get("/plain")
async def plain() -> StreamingResponse:
    return stream()


class Page(HTTPEndpoint):
    @streams.cached()
    async def get(self, request: Request) -> StreamingResponse:
        return stream()


class Sales:
    """What answers for one shop; the instances are not told apart."""

    def __init__(self) -> None:
        self.prices = object()

    @streams.cached()
    async def naively(self) -> StreamingResponse:
        return stream()

    @streams.cached(noself=True)
    async def fixed(self) -> StreamingResponse:
        return stream()


@dataclasses.dataclass
class Counter:
    number: int

    @streams.cached()
    async def count(self) -> StreamingResponse:
        return stream()


def sell(sales: Sales) -> None:
    app.get("/sales/counter")(Counter(1).count)
    app.get("/sales")(sales.naively)
    app.get("/sales/fixed")(sales.fixed)


sell(Sales())
app.include_router(router, prefix="/v1")
app.mount("/pages", Mount("/of", routes=[Route("/starlette", Page)]))

app.mount("/rooms", Router(routes=[Route("/one", Page)]))

inner = FastAPI()


@inner.get("/items")
@streams.cached(60)
async def items() -> StreamingResponse:
    return stream()


app.mount("/inner", inner)


def create_app() -> FastAPI:
    return app
