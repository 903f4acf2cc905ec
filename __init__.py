"""Driving policies that behave like people: Waymo scenarios in, a GAIL-trained policy out.

Installed under this one name; the rooms are ``gail_cli.sim``, ``gail_cli.pipeline``, ``gail_cli.gail``,
``gail_cli.data`` and ``gail_cli.cli``.
"""
