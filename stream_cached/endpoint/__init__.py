"""What was decorated: its kind, signature, arguments and dependencies."""
