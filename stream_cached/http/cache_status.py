"""The Cache-Status header field (RFC 9211)."""

from __future__ import annotations


def cache_status(
    *,
    hit: bool = False,
    ttl: int | None = None,
    fwd: str = "",
    fwd_status: int | None = None,
    stored: bool = False,
    collapsed: bool = False,
    detail: str = "",
) -> str:
    """Build this cache's member of Cache-Status (RFC 9211, section 2)."""
    parts = ["stream-cached"]
    if hit:
        parts.append("hit")
    if ttl is not None:
        parts.append(f"ttl={ttl}")
    if fwd:
        parts.append(f"fwd={fwd}")
    if fwd_status is not None:
        parts.append(f"fwd-status={fwd_status}")
    if stored:
        parts.append("stored")
    if collapsed:
        parts.append("collapsed")
    if detail:
        parts.append(f'detail="{detail}"')
    return "; ".join(parts)
