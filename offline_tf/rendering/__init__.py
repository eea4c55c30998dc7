"""Films of a controller."""
