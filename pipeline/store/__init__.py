"""The Zarr store: schema, arrays, storage, reading and writing."""
