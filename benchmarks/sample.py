"""A demo store to measure on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from gail_cli import data
from gail_cli.pipeline.extract.build import ExtractConfig
from gail_cli.pipeline.extract.extract import ExtractOptions, extract
from gail_cli.sim.actions import ActionSpace


@contextmanager
def sample_store(path: str | None) -> Iterator[str]:
    """The given store, or one extracted from the committed sample into a folder that goes away."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        config = ExtractConfig(ActionSpace.create("classic"))
        extract([str(data.SAMPLE)], f"{folder}/store", config, ExtractOptions(workers=1))
        yield f"{folder}/store"
