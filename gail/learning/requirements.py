"""What a run asks of the stores that it learns from."""

from __future__ import annotations

from gail_cli.gail.config.schema import DataConfig
from gail_cli.gail.learning.run import RunError
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.pipeline.validate.validate import Expectation, fit
from gail_cli.sim.config import SimConfig


def expectation(data: DataConfig, sim: SimConfig | None = None) -> Expectation:
    """What a run, by its rules, asks of its store."""
    gpudrive = sim is not None and sim.compat == "gpudrive"
    return Expectation(
        data.dynamics, data.actions, data.grid, data.split, data.agents, gpudrive=gpudrive, learnable=True
    )


def check_fit(data: DataConfig, store: DemoStore, sim: SimConfig | None = None) -> None:
    """Whether the store holds what the run needs, and can be driven by its rules.

    Raises:
        RunError: naming the first thing that does not fit.
    """
    for problem in fit(store, expectation(data, sim)):
        raise RunError(problem.where, problem.what, problem.fix)
