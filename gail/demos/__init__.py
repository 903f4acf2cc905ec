"""Expert demonstrations as batches: rules, schedule, pool, samplers, worlds, prefetch."""
