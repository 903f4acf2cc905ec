"""One reader per format; each returns scenarios."""
