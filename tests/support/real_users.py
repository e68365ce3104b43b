"""Who uses the application of `real_app.py`, and what each is to be given.

By itself, as tests are to know it before they run: the application takes 20 MB of modules.
"""

from __future__ import annotations

import json

#: Lines of a body.
LINES = 12
USERS = ("alice", "bob")
ANONYMOUS = "anonymous"
#: Whose a body is that is the same for all.
PUBLIC = "the public"


def lines(owner: str) -> list[str]:
    """What somebody's body is made of."""
    return [f"{number},{owner}'s line {number} of {LINES}\n" for number in range(LINES)]


def token_of(user: str) -> str:
    return f"token-of-{user}"


def told(owner: str) -> str:
    """What the chat answers, as server-sent events."""
    return "".join(f"data: {json.dumps(line)}\n\n" for line in lines(owner))
