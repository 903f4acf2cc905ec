"""How well policies drive: drivers, metrics, realism, tables, submissions."""
