"""Which store is used now: the configured cache, or the memory fallback."""
