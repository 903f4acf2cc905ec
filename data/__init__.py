"""Synthetic traffic of the project's own making, and a small committed sample of it."""

from pathlib import Path

SAMPLE: Path = Path(__file__).parent / "sample"
"""Folder with the committed sample: 16 scenes, seed 0."""
