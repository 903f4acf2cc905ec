"""What the command line shows, accepts and examines."""
