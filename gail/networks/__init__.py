"""Policy, critic and discriminators."""
