"""A store's demos in the formats of other tools."""
