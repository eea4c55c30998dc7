"""What models know: numbers, pictures, the stage that keeps them."""
