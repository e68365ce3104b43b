"""Bytes in motion: one running stream and its readers."""
