"""``python -m gail_cli``."""

from gail_cli.cli import main

main()
