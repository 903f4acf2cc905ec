"""Speed, measured: nothing here is imported by the program, and no test asserts a time."""
