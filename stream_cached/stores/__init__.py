"""The store protocol, and its stores."""
