"""Logs to stores: readers, expert actions, the Zarr store, extraction and validation."""
