"""Tasks that are described by a file plant.toml: no Python is needed, and none is run."""
