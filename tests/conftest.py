import gc

# Tracing makes millions of objects that stay: look through them for cycles less often.
gc.set_threshold(50_000, 10, 10)
