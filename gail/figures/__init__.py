"""Pictures: maps, episodes, films, curves."""
