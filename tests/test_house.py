"""The structure that documentation and packaging promise."""

import re
import tomllib
from pathlib import Path

import gail_cli

ROOT = Path(gail_cli.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_what_is_installed_is_what_is_there():
    """A room that the list leaves out would be missing from the wheel alone, where no other test looks."""
    tops = ("data", "gail", "pipeline", "sim")
    rooms = {file.parent.relative_to(ROOT) for top in tops for file in (ROOT / top).rglob("__init__.py")}
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted({"gail_cli", *("gail_cli." + ".".join(room.parts) for room in rooms)})


def test_every_room_has_its_line_in_contributing():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"^\| `([\w/.]+?)/?` \|", text, re.M))
    tops = {str(place.relative_to(ROOT)) for top in ("gail", "pipeline") for place in (ROOT / top).iterdir()
            if place.name not in ("__init__.py", "__pycache__")}  # fmt: skip
    assert tops | {"sim", "data"} == named
    assert all(len([room for room in tops if room.startswith(f"{top}/")]) <= 8 for top in ("gail", "pipeline"))
