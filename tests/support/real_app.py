"""An application as people write them, with the decorator put on by somebody who read nothing.

Beside each endpoint that can't be cached so stands a second one, `fixed`, with the very lines
that the first one's warning asks for. Each line of a body names the client that it is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Request
from fastapi.security import OAuth2PasswordBearer
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from pydantic import BaseModel
from slowapi import Limiter
from slowapi.util import get_remote_address
from sqlalchemy import ForeignKey, Select, select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from stream_cached import InKey, NotInKey, not_in_key, stream_cached
from tests.support.real_users import ANONYMOUS, PUBLIC, USERS, lines, token_of

logger = logging.getLogger("real_app")

#: Awaited by each stream after its first line.
Pause = Callable[[], Awaitable[None]]
Cached = Callable[..., stream_cached]


# -- the database ---------------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    token: Mapped[str]


class Product(Base):
    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True)
    line: Mapped[str]


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    line: Mapped[str]


async def make_databases(directory: Path) -> None:
    """The application's own, and one of each tenant."""
    await _make_database(directory / "app.db", PUBLIC)
    for tenant in (*USERS, ANONYMOUS):
        await _make_database(directory / f"{tenant}.db", tenant)


async def _make_database(path: Path, owner: str) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        session.add_all(Product(line=line) for line in lines(owner))
        for number, user in enumerate(USERS, 1):
            session.add(User(id=number, name=user, token=token_of(user)))
            session.add_all(Order(user_id=number, line=line) for line in lines(user))
        await session.commit()
    await engine.dispose()


async def lines_of(session: AsyncSession, found: Select[str]) -> AsyncGenerator[str, None]:
    """Stream from the database, as an export does."""
    rows = await session.stream(found)
    try:
        async for (line,) in rows:
            yield line
    finally:
        await rows.close()


PRODUCTS = select(Product.line).order_by(Product.id)


def orders_of(user: User) -> Select[str]:
    return select(Order.line).where(Order.user_id == user.id).order_by(Order.id)


# -- dependencies ---------------------------------------------------------------------------------


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]

bearer = OAuth2PasswordBearer(tokenUrl="login", auto_error=False)


async def find_user(token: Annotated[str | None, Depends(bearer)], session: Session) -> User | None:
    found: User | None = await session.scalar(select(User).where(User.token == token))
    return found


async def current_user(user: Annotated[User | None, Depends(find_user)]) -> User:
    if user is None:
        raise HTTPException(401)
    return user


class Visitor:
    """The user that a cookie names: of a class that can't be part of a key."""

    def __init__(self, user: Annotated[str, Cookie()] = ANONYMOUS) -> None:
        self.called = user


def user_in_state(request: Request) -> str:
    return str(request.state.user)


def user_in_session(request: Request) -> str:
    return str(request.session.get("user", ANONYMOUS))


def choose_user(session: Session, user: Annotated[str, Cookie()] = ANONYMOUS) -> None:
    """What row-level security is switched on by: whose rows the session will see."""
    session.info["user"] = user


def choose_user_by_token(
    session: Session, token: Annotated[str | None, Depends(bearer)] = None
) -> None:
    session.info["user"] = (token or ANONYMOUS).removeprefix(token_of(""))


def session_in_state(request: Request) -> AsyncSession:
    session: AsyncSession = request.state.session
    return session


def get_tenant(tenant: Annotated[str, Cookie()]) -> str:
    if tenant not in USERS:
        raise HTTPException(404)
    return tenant


async def get_tenant_session(
    request: Request, tenant: Annotated[str, Depends(get_tenant)]
) -> AsyncIterator[AsyncSession]:
    async with request.app.state.tenants[tenant]() as session:
        yield session


class ReportService:
    def __init__(self, session: Session) -> None:
        self._session = session

    def rows(self) -> AsyncGenerator[str, None]:
        return lines_of(self._session, PRODUCTS)


def get_service(session: Session) -> ReportService:
    return ReportService(session)


class LedgerService(ReportService):
    """One that is left out of all keys."""


not_in_key(LedgerService)


def get_pool(request: Request) -> Executor:
    pool: Executor = request.state.pool
    return pool


def get_model(request: Request) -> AsyncOpenAI:
    model: AsyncOpenAI = request.state.model
    return model


class Settings(BaseModel):
    title: str = PUBLIC


@functools.cache
def get_settings() -> Settings:
    return Settings()


class Prompt(BaseModel):
    text: str
    temperature: float = 0.0


# -- middleware -----------------------------------------------------------------------------------


class Identity:
    """
    Says who asks, in all the places where people look for it.

    It is pure ASGI, since it lies around streams.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        state, headers = connection.state, connection.headers
        state.user = headers.get("X-User") or connection.cookies.get("user", ANONYMOUS)
        state.request_id = headers.get("X-Request-ID", "")
        async with connection.app.state.tenants[state.user]() as state.session:
            await self._app(scope, receive, send)


# -- the model's server ---------------------------------------------------------------------------


def create_model() -> Starlette:
    """Speak the streaming chat completions: the user that a prompt names is answered in tokens."""

    def event(delta: dict[str, str], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        kind = {"object": "chat.completion.chunk", "created": 1, "model": "parrot"}
        return f"data: {json.dumps({'id': 'c-1', **kind, 'choices': [choice]})}\n\n"

    async def completions(request: Request) -> Response:
        asked = await request.json()
        assert asked["stream"] is True

        async def events() -> AsyncIterator[str]:
            yield event({"role": "assistant", "content": ""})
            for token in lines(asked["messages"][-1]["content"]):
                yield event({"content": token})
            yield event({}, "stop")
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", completions, methods=["POST"])])


# -- the application ------------------------------------------------------------------------------


def create_app(
    cache: str, *, databases: Path, model_url: str, spans: SpanExporter, pause: Pause
) -> FastAPI:
    """
    Make the application.

    Args:
        cache: The address of its cache.
        databases: The directory that `make_databases` filled.
        model_url: Where the model's server is.
        spans: Where its traces go.
        pause: Awaited by each stream after its first line.
    """

    def engine_of(name: str) -> AsyncEngine:
        return create_async_engine(f"sqlite+aiosqlite:///{databases / name}.db")

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        engines = {name: engine_of(name) for name in ("app", *USERS, ANONYMOUS)}
        sessions = {
            name: async_sessionmaker(engine, expire_on_commit=False)
            for name, engine in engines.items()
        }
        app.state.sessions = sessions.pop("app")
        app.state.tenants = sessions
        # Over plain HTTP, without a store of certificates, which takes long to load.
        plain = DefaultAsyncHttpxClient(verify=False)
        model = AsyncOpenAI(api_key="none", base_url=f"{model_url}/v1", http_client=plain)
        with ThreadPoolExecutor(2) as pool:
            async with model:
                yield {"pool": pool, "model": model}
        for engine in engines.values():
            await engine.dispose()

    app = FastAPI(lifespan=lifespan)
    # The last one is the outermost.
    app.add_middleware(Identity)
    app.add_middleware(SessionMiddleware, secret_key="secret")
    app.add_middleware(GZipMiddleware, minimum_size=100)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=[f"https://{user}.example" for user in USERS],
        allow_credentials=True,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1"])
    tracing = TracerProvider(shutdown_on_exit=False)
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    app.add_middleware(OpenTelemetryMiddleware, tracer_provider=tracing)

    cached = functools.partial(stream_cached, ttl=60, cache=cache)
    _add_public(app, cached, pause)
    _add_users(app, cached, pause)
    _add_tenants(app, cached, pause)
    _add_services(app, cached, pause)
    _add_chat(app, cached, pause)
    _add_headers(app, cached, pause)
    _add_classes(app, cached, pause)
    _add_visitors(app, cached, pause)
    return app


def _streamed(
    rows: AsyncGenerator[str, None] | Iterable[str], pause: Pause, media_type: str = "text/csv"
) -> StreamingResponse:
    async def body() -> AsyncIterator[str]:
        async with contextlib.aclosing(_each(rows)) as all_rows:
            yield await anext(all_rows)
            await pause()
            async for row in all_rows:
                yield row

    return StreamingResponse(body(), media_type=media_type)


def _each(rows: AsyncGenerator[str, None] | Iterable[str]) -> AsyncGenerator[str, None]:
    async def each(known: Iterable[str]) -> AsyncGenerator[str, None]:
        for row in known:
            yield row

    return each(rows) if isinstance(rows, Iterable) else rows


def _add_public(app: FastAPI, cached: Cached, pause: Pause) -> None:
    """What is the same for everybody."""
    limiter = Limiter(key_func=get_remote_address, headers_enabled=True)
    app.state.limiter = limiter

    @app.get("/export")
    @cached()
    async def export(session: Session) -> Response:
        return _streamed(lines_of(session, PRODUCTS), pause)

    @app.get("/imprint")
    @limiter.limit("100000/hour")  # above the cache: what it answers counts, too
    @cached()
    async def imprint(request: Request) -> Response:
        return _streamed(lines(PUBLIC), pause)

    @app.get("/theme")
    @cached()
    async def theme(settings: Annotated[Settings, Depends(get_settings)]) -> Response:
        return _streamed(lines(settings.title), pause)

    @app.get("/calculation")
    @cached()
    async def calculation(request: Request) -> Response:
        loop = asyncio.get_running_loop()
        return _streamed(await loop.run_in_executor(request.state.pool, lines, PUBLIC), pause)

    @app.get("/calculation/by-argument")
    @cached()
    async def calculation_by_argument(pool: Annotated[Executor, Depends(get_pool)]) -> Response:
        loop = asyncio.get_running_loop()
        return _streamed(await loop.run_in_executor(pool, lines, PUBLIC), pause)


def _add_users(app: FastAPI, cached: Cached, pause: Pause) -> None:
    """What is one user's own, by each of the ways to know who asks."""

    @app.post("/login")
    async def login(request: Request, user: str) -> str:
        request.session["user"] = user
        return f"welcome, {user}"

    @app.get("/orders")
    @cached()
    async def orders(user: Annotated[User, Depends(current_user)], session: Session) -> Response:
        return _streamed(lines_of(session, orders_of(user)), pause)

    @app.get("/orders/fixed")
    @cached(authorized="keyed", key_args={"user": lambda user: user.id})
    async def orders_fixed(
        user: Annotated[User, Depends(current_user)], session: Session
    ) -> Response:
        return _streamed(lines_of(session, orders_of(user)), pause)

    @app.get("/orders/in-key")
    @cached()
    async def orders_in_key(
        user: Annotated[User, Depends(current_user), InKey(lambda user: user.id)],
        session: Session,
    ) -> Response:
        return _streamed(lines_of(session, orders_of(user)), pause)

    @app.get("/greeting")
    @cached()
    async def greeting(request: Request) -> Response:
        return _streamed(lines(request.session.get("user", ANONYMOUS)), pause)

    @app.get("/greeting/fixed")
    @cached()
    async def greeting_fixed(user: Annotated[str, Depends(user_in_session)]) -> Response:
        return _streamed(lines(user), pause)

    @app.get("/profile")
    @cached()
    async def profile(request: Request) -> Response:
        return _streamed(lines(request.state.user), pause)

    @app.get("/profile/fixed")
    @cached()
    async def profile_fixed(user: Annotated[str, Depends(user_in_state)]) -> Response:
        return _streamed(lines(user), pause)


def _add_tenants(app: FastAPI, cached: Cached, pause: Pause) -> None:
    """What is of a database that a cookie names."""

    @app.get("/stock")
    @cached()
    async def stock(session: Annotated[AsyncSession, Depends(get_tenant_session)]) -> Response:
        return _streamed(lines_of(session, PRODUCTS), pause)

    @app.get("/stock/fixed")
    @cached()
    async def stock_fixed(
        tenant: Annotated[str, Cookie()],
        session: Annotated[AsyncSession, Depends(get_tenant_session), NotInKey],
    ) -> Response:
        return _streamed(lines_of(session, PRODUCTS), pause)

    @app.get("/stock/ignored")
    @cached(key_ignore=("session",))
    async def stock_ignored(
        tenant: Annotated[str, Depends(get_tenant)],
        session: Annotated[AsyncSession, Depends(get_tenant_session)],
    ) -> Response:
        return _streamed(lines_of(session, PRODUCTS), pause)


def _add_services(app: FastAPI, cached: Cached, pause: Pause) -> None:
    """What a service of the application's own makes."""

    @app.get("/report")
    @cached()
    async def report(service: Annotated[ReportService, Depends(get_service)]) -> Response:
        return _streamed(service.rows(), pause)

    @app.get("/report/fixed")
    @cached()
    async def report_fixed(
        service: Annotated[ReportService, Depends(get_service), NotInKey],
    ) -> Response:
        return _streamed(service.rows(), pause)

    @app.get("/report/ignored")
    @cached(key_ignore=("service",))
    async def report_ignored(service: Annotated[ReportService, Depends(get_service)]) -> Response:
        return _streamed(service.rows(), pause)

    @app.get("/report/declared")
    @cached()
    async def report_declared(service: Annotated[LedgerService, Depends()]) -> Response:
        return _streamed(service.rows(), pause)


def _add_chat(app: FastAPI, cached: Cached, pause: Pause) -> None:
    """What a model says, a token at a time."""

    async def tokens(model: AsyncOpenAI, prompt: Prompt) -> AsyncGenerator[str, None]:
        async with await model.chat.completions.create(
            model="parrot",
            messages=[{"role": "user", "content": prompt.text}],
            temperature=prompt.temperature,
            stream=True,
        ) as stream:
            async for chunk in stream:
                if token := chunk.choices[0].delta.content:
                    yield f"data: {json.dumps(token)}\n\n"

    @app.post("/chat")
    @cached(methods=("POST",))
    async def chat(prompt: Prompt, model: Annotated[AsyncOpenAI, Depends(get_model)]) -> Response:
        return _streamed(tokens(model, prompt), pause, "text/event-stream")

    @app.post("/chat/by-request")
    @cached(methods=("POST",))
    async def chat_by_request(request: Request) -> Response:
        prompt = Prompt.model_validate(await request.json())
        return _streamed(tokens(request.state.model, prompt), pause, "text/event-stream")


def _add_headers(app: FastAPI, cached: Cached, pause: Pause) -> None:
    """What a header is read for."""

    @app.get("/localised")
    @cached()
    async def localised(lang: Annotated[str, Header()]) -> Response:
        return _streamed(lines(lang), pause)

    def traced(request: Request) -> Response:
        logger.info("request %s", request.headers.get("X-Request-ID"))
        return _streamed(lines(PUBLIC), pause)

    @app.get("/traced")
    @cached()
    async def traced_naively(request: Request) -> Response:
        return traced(request)

    @app.get("/traced/fixed")
    @cached(unguarded=("X-Request-ID",))
    async def traced_fixed(request: Request) -> Response:
        return traced(request)


def _add_classes(app: FastAPI, cached: Cached, pause: Pause) -> None:
    """What the methods of classes answer."""

    class Catalogue(HTTPEndpoint):
        @cached()
        async def get(self, request: Request) -> Response:
            return _streamed(lines(PUBLIC), pause)

    class Basket(HTTPEndpoint):
        @cached()
        async def get(self, request: Request) -> Response:
            return _streamed(lines(request.cookies.get("user", ANONYMOUS)), pause)

    class Sales:
        def __init__(self, owner: str) -> None:
            self._owner = owner

        @cached()
        async def naively(self) -> Response:
            return _streamed(lines(self._owner), pause)

        @cached(noself=True)
        async def fixed(self) -> Response:
            return _streamed(lines(self._owner), pause)

    classes = Starlette(routes=[Route("/catalogue", Catalogue), Route("/basket", Basket)])
    app.mount("/classes", classes)
    sales = Sales(PUBLIC)
    app.get("/sales")(sales.naively)
    app.get("/sales/fixed")(sales.fixed)


def _add_visitors(app: FastAPI, cached: Cached, pause: Pause) -> None:
    """Greet each client, known or not, by each way to know them; all by one credential each."""

    def whole(user: str) -> Response:
        return whole_of(lines(user))

    def whole_of(rows: Iterable[str]) -> Response:
        return PlainTextResponse("".join(rows))

    @app.get("/visitors/cookie")
    @cached()
    async def by_cookie(request: Request) -> Response:
        return whole(request.cookies.get("user", ANONYMOUS))

    @app.get("/visitors/bearer")
    @cached()
    async def by_bearer(request: Request) -> Response:
        token = request.headers.get("Authorization", ANONYMOUS)
        return whole(token.rpartition("token-of-")[2])

    @app.get("/visitors/bearer-dependency")
    @cached()
    async def by_dependency(user: Annotated[User | None, Depends(find_user)]) -> Response:
        return whole(user.name if user else ANONYMOUS)

    @app.get("/visitors/cookie-dependency")
    @cached()
    async def by_class(visitor: Annotated[Visitor, Depends()]) -> Response:
        return whole(visitor.called)

    @app.get("/visitors/argument")
    @cached()
    async def by_argument(user: Annotated[str, Cookie()] = ANONYMOUS) -> Response:
        return whole(user)

    @app.get("/visitors/middleware")
    @cached()
    async def by_middleware(request: Request) -> Response:
        return whole(request.state.user)

    @app.get("/visitors/session")
    @cached()
    async def by_session(request: Request) -> Response:
        return whole(request.session.get("user", ANONYMOUS))

    @app.get("/visitors/session-in-state")
    @cached()
    async def by_session_in_state(request: Request) -> Response:
        return whole_of(await request.state.session.scalars(PRODUCTS))

    @app.get("/visitors/session-by-dependency")
    @cached()
    async def by_session_of_dependency(
        session: Annotated[AsyncSession, Depends(session_in_state)],
    ) -> Response:
        return whole_of(await session.scalars(PRODUCTS))

    @app.get("/visitors/other-argument")
    @cached()
    async def by_other_argument(
        session: Session, _: Annotated[None, Depends(choose_user)]
    ) -> Response:
        return whole(session.info["user"])

    @app.get("/visitors/dependency-of-route", dependencies=[Depends(choose_user)])
    @cached()
    async def by_dependency_of_route(session: Session) -> Response:
        return whole(session.info["user"])

    @app.get("/visitors/bearer-of-route", dependencies=[Depends(choose_user_by_token)])
    @cached()
    async def by_bearer_of_route(session: Session) -> Response:
        return whole(session.info["user"])

    @app.get("/visitors/stream")
    @cached()
    async def while_it_streams(request: Request) -> Response:
        async def rows() -> AsyncIterator[str]:
            yield "".join(lines(request.state.user)[:1])
            yield "".join(lines(request.cookies.get("user", ANONYMOUS))[1:])

        return StreamingResponse(rows(), media_type="text/plain")
