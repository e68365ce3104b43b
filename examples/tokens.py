"""
A stream of tokens from a plain generator function, with no web framework at all.

    python examples/tokens.py
    python examples/tokens.py redis://localhost:6379/0

The first reader causes one run. The second one joins half-way: it has the beginning at once, and
the rest live. The third one is given what is stored.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator

from stream_cached import aclose, stream_cached

CACHE = sys.argv[1] if len(sys.argv) > 1 else "memory://"
TOKENS = int(os.environ.get("TOKENS", "100"))
PAUSE = float(os.environ.get("PAUSE", "0.02"))

runs = 0


@stream_cached(ttl=600, cache=CACHE, namespace="tokens")
async def tokens(prompt: str, *, model: str) -> AsyncIterator[str]:
    """Imitate a language model."""
    global runs
    runs += 1
    for number in range(TOKENS):
        await asyncio.sleep(PAUSE)
        yield f"{prompt} {number}"


async def read(name: str, after: float = 0.0) -> list[str]:
    await asyncio.sleep(after)
    began = time.monotonic()
    came: list[float] = []
    texts: list[str] = []
    async for text in tokens("token", model="small"):
        came.append(time.monotonic() - began)
        texts.append(text)
    at_once = sum(moment < PAUSE / 2 for moment in came)
    print(
        f"{name}: {len(texts)} tokens, the first after {came[0]:.3f} s, {at_once} of them at once, "
        f"the last after {came[-1]:.3f} s; runs so far: {runs}"
    )
    return texts


async def main() -> None:
    await tokens.invalidate()
    first, second = await asyncio.gather(read("first "), read("second", after=TOKENS * PAUSE / 2))
    third = await read("third ")
    assert first == second == third
    assert runs == 1
    await aclose()


if __name__ == "__main__":
    asyncio.run(main())
