"""Processes that begin with everything imported."""

import multiprocessing
from multiprocessing import forkserver

import dask
import pytest

PRELOADED = ["distributed", "distributed.worker", "distributed.nanny", "gail_cli.pipeline.extract.extract"]


@pytest.fixture(scope="session")
def processes():
    """A server that forks processes, those of Dask clusters too."""
    forkserver.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield multiprocessing.get_context("forkserver")
