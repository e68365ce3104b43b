"""The decorated endpoint: its kind, signature, arguments and dependencies."""
