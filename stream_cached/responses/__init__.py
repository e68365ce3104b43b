"""What an endpoint returned, and what is sent."""
