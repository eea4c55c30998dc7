"""What a machine and its Python bring; standard library alone."""
