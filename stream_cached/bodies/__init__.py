"""Stores of bodies: where large bodies are kept, beside the store of the records."""
