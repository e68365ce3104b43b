"""Records and segments to bytes and back. No I/O, no clock."""
