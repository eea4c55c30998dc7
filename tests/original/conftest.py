import offline_tf  # noqa: F401 (before TensorFlow, see there)
