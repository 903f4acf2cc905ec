"""Where an extraction's tasks run: here, in processes of our own, or on a running Dask cluster."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from gail_cli.sim.errors import UserError

SCHEDULER_TIMEOUT = "10s"
"""Time to wait for a scheduler's answer."""


class ExtractionError(UserError):
    """An extraction that cannot start or has nothing to write."""


@contextmanager
def dask_client(workers: int, scheduler: str | None) -> Iterator[Any]:
    """A client of the given scheduler, or of one with ``workers`` processes of one thread each; None for one worker,
    which needs no cluster."""
    if workers == 1 and scheduler is None:
        yield None
        return
    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=SCHEDULER_TIMEOUT)
        except (OSError, ValueError, TimeoutError) as error:
            what = f"cannot be reached ({error})"
            raise ExtractionError(f"scheduler {scheduler}", what, "start it or check it") from error
        with client:
            yield client
        return
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    quiet = {
        "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 1 << 30,  # memory is used again at once
        "distributed.worker.profile.enabled": False,
    }
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.worker.daemon": True} | quiet))
        with _interrupts_held():
            cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        stack.enter_context(cluster)
        yield stack.enter_context(Client(cluster))


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started here ignore Ctrl-C, which a terminal sends to all; this one gets it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
