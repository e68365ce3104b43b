"""The demo behind ``stream-cached demo``: real streams over real HTTP, each asked for twice."""
