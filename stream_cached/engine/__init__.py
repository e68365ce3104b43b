"""The way of one request: look up, then answer, join, follow or lead."""
