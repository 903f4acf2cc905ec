"""Expert demonstrations as batches: schedule, pool, worlds, prefetch."""
