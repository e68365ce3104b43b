"""
A stream of tokens from FastAPI endpoints that yield: JSON lines, server-sent events, and text.

    pip install fastapi uvicorn
    uvicorn examples.tokens_app:app
    curl -N localhost:8000/tokens      (twice, or in two windows at once)

`CACHE=redis://localhost:6379/0` shares the runs and the entries among processes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from stream_cached import lifespan, stream_cached

TOKENS = int(os.environ.get("TOKENS", "100"))
PAUSE = float(os.environ.get("PAUSE", "0.02"))

app = FastAPI(lifespan=lifespan)
cached = stream_cached(ttl=600, cache=os.environ.get("CACHE", "memory://"))


class Token(BaseModel):
    number: int
    text: str


async def generate(prompt: str) -> AsyncIterator[Token]:
    """Imitate a language model."""
    for number in range(TOKENS):
        await asyncio.sleep(PAUSE)
        yield Token(number=number, text=f"{prompt} {number}")


@app.get("/tokens")
@cached
async def tokens(prompt: str = "token") -> AsyncIterator[Token]:
    async for token in generate(prompt):
        yield token


@app.get("/events", response_class=EventSourceResponse)
@cached
async def events(prompt: str = "token") -> AsyncIterator[ServerSentEvent]:
    async for token in generate(prompt):
        yield ServerSentEvent(data=token, event="token", id=str(token.number))
    yield ServerSentEvent(raw_data="[DONE]")


@app.get("/text", response_class=StreamingResponse)
@cached
async def text(prompt: str = "token") -> AsyncIterator[str]:
    async for token in generate(prompt):
        yield f"{token.text}\n"
