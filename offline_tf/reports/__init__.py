"""TensorBoard, the HTML page, records of campaigns."""
