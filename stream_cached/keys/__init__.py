"""Values to their canonical form, and to keys. No I/O, no clock."""
