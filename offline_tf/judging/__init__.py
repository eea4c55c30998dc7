"""What a controller is worth, by models that it was not made with and by the data."""
