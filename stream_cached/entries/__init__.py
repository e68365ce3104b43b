"""Bytes at rest: what a store holds for one resource."""
