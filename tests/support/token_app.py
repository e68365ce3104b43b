"""An ordinary application: seventeen endpoints, most of them for users who come with a token."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pydantic
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from fastapi.security import OAuth2PasswordBearer
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import ForeignKey, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

from tests.support.decorating import Decorate

USERS = ("alice", "bob")


class Base(DeclarativeBase):
    """The tables."""


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    is_admin: Mapped[bool]


class Item(Base):
    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))


engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


def fill() -> None:
    """Make the tables, with two users and their items."""
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        for number, name in enumerate(USERS, 1):
            session.add(User(id=number, name=name, is_admin=True))
            session.add_all(Item(title=f"{each} of {name}", owner_id=number) for each in ("a", "b"))
        session.commit()


class ItemPublic(pydantic.BaseModel):
    id: int
    title: str


class Settings(pydantic.BaseModel):
    project: str = "shop"


class Search(pydantic.BaseModel):
    words: list[str]


class Page:
    """A class of query parameters."""

    def __init__(self, skip: int = 0, limit: Annotated[int, Query(le=100)] = 10) -> None:
        self.skip, self.limit = skip, limit


# -- dependencies ---------------------------------------------------------------------------------

oauth2 = OAuth2PasswordBearer("/login")


def get_db() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_db)]
TokenDep = Annotated[str, Depends(oauth2)]


def get_current_user(session: SessionDep, token: TokenDep) -> User:
    user = session.scalar(select(User).where(User.name == token))
    if user is None:
        raise HTTPException(401)
    return user


CurrentUser = Annotated[User, Depends(get_current_user)]


def get_current_admin(user: CurrentUser) -> User:
    if not user.is_admin:
        raise HTTPException(403)
    return user


@functools.lru_cache
def get_settings() -> Settings:
    return Settings()


def get_client(request: Request) -> httpx.AsyncClient:
    client: httpx.AsyncClient = request.state.client
    return client


class ItemService:
    def __init__(self, session: SessionDep, settings: Annotated[Settings, Depends(get_settings)]):
        self._session = session
        self.settings = settings

    def of(self, user: User) -> list[Item]:
        return items_of(self._session, user)


def items_of(session: Session, user: User) -> list[Item]:
    found = select(Item).where(Item.owner_id == user.id).order_by(Item.id)
    return list(session.scalars(found))


# -- the application ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    async with httpx.AsyncClient() as client:
        yield {"client": client}


def create_app(cached: Decorate) -> FastAPI:
    """
    Return the application.

    Args:
        cached: Makes the decorator of each endpoint.
    """
    app = FastAPI(lifespan=lifespan)
    _add_common(app, cached)
    _add_items(app, cached)
    _add_streams(app, cached)
    _add_others(app, cached)
    return app


def _add_common(app: FastAPI, cached: Decorate) -> None:
    @app.get("/health")
    @cached()
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/settings")
    @cached()
    async def settings(settings: Annotated[Settings, Depends(get_settings)]) -> Settings:
        return settings

    @app.get("/language")
    @cached()
    async def language(accept_language: Annotated[str, Header()] = "en") -> dict[str, str]:
        return {"language": accept_language}

    @app.get("/file")
    @cached()
    async def file(_: CurrentUser) -> FileResponse:
        return FileResponse(Path(__file__))


def _add_items(app: FastAPI, cached: Decorate) -> None:
    @app.get("/me")
    @cached()
    async def me(user: CurrentUser) -> dict[str, Any]:
        return {"id": user.id, "name": user.name}

    @app.get("/items", response_model=list[ItemPublic])
    @cached()
    def items(session: SessionDep, user: CurrentUser, page: Annotated[Page, Depends()]) -> Any:
        return items_of(session, user)[page.skip : page.skip + page.limit]

    @app.get("/items/{position}", response_model=ItemPublic)
    @cached()
    def item(position: int, session: SessionDep, user: CurrentUser) -> Any:
        return items_of(session, user)[position]

    @app.get("/service", response_model=list[ItemPublic])
    @cached()
    async def service(service: Annotated[ItemService, Depends()], user: CurrentUser) -> Any:
        return service.of(user)

    @app.post("/search", response_model=list[ItemPublic])
    @cached(methods=("POST",))
    async def search(search: Search, session: SessionDep, user: CurrentUser) -> Any:
        return [each for each in items_of(session, user) if each.title[0] in search.words]


def _add_streams(app: FastAPI, cached: Decorate) -> None:
    @app.get("/export")
    @cached()
    async def export(session: SessionDep, user: CurrentUser) -> StreamingResponse:
        async def rows() -> AsyncIterator[str]:
            for each in items_of(session, user):
                yield f"{each.title}\n"

        return StreamingResponse(rows(), media_type="text/csv")

    @app.get("/lines")
    @cached()
    async def lines(session: SessionDep, user: CurrentUser) -> AsyncIterator[ItemPublic]:
        for each in items_of(session, user):
            yield ItemPublic(id=each.id, title=each.title)

    @app.get("/events", response_class=EventSourceResponse)
    @cached()
    async def events(user: CurrentUser) -> AsyncIterator[ServerSentEvent]:
        for number in range(3):
            yield ServerSentEvent(data=f"{number} of {user.name}", id=str(number))

    @app.get("/raw", response_class=StreamingResponse)
    @cached()
    def raw(session: SessionDep, user: CurrentUser) -> Iterator[str]:
        for each in items_of(session, user):
            yield each.title


def _add_others(app: FastAPI, cached: Decorate) -> None:
    @app.get("/client")
    @cached()
    async def client(
        client: Annotated[httpx.AsyncClient, Depends(get_client)], user: CurrentUser
    ) -> dict[str, Any]:
        return {"user": user.name, "closed": client.is_closed}

    @app.get("/admin")
    @cached()
    async def admin(session: SessionDep, _: Annotated[User, Depends(get_current_admin)]) -> Any:
        return {"items": len(list(session.scalars(select(Item))))}

    router = APIRouter(prefix="/team", dependencies=[Depends(get_current_user)])

    @router.get("/size")
    @cached()
    async def size() -> PlainTextResponse:
        return PlainTextResponse("two")

    @router.get("/items")
    @cached()
    async def team(session: SessionDep) -> Any:
        return {"items": len(list(session.scalars(select(Item))))}

    app.include_router(router)
