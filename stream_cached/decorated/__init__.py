"""What one use of the decorator consists of: its functions, their keys, and its hooks."""
