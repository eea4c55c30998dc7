import gc

# Tracing makes millions of objects that stay; to search them for cycles takes 7 % of the time.
gc.set_threshold(50_000, 10, 10)
