"""How a server is reached, and how long that may take."""
