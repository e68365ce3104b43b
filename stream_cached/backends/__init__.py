"""Which store is used now: the cache itself, or the memory that stands in for it."""
