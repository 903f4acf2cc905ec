"""Is a store sound, and does it fit a run? One function per check."""
