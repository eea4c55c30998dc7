"""A first plant.toml from what a table looks like."""
