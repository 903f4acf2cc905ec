"""What a run asks of the stores that it learns from."""

from __future__ import annotations

from gail_cli.gail.config.schema import DataConfig
from gail_cli.gail.learning.run import RunError
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.pipeline.validate.validate import Expectation, fit


def expectation(data: DataConfig) -> Expectation:
    """What a run asks of its store."""
    return Expectation(data.dynamics, data.actions, data.grid, data.split, data.agents, learnable=True)


def check_fit(data: DataConfig, store: DemoStore) -> None:
    """Whether the store holds what the run needs.

    Raises:
        RunError: naming the first thing that does not fit.
    """
    for problem in fit(store, expectation(data)):
        raise RunError(problem.where, problem.what, problem.fix)
