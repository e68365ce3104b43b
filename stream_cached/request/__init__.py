"""Who asks, and what the endpoint read of the request."""
