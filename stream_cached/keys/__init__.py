"""From values to canonical forms, and from canonical forms to keys. No I/O, no clock."""
