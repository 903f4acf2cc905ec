"""Behaviour cloning before the first rollout, or instead of it the cloned policy of another run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch

from gail_cli.gail.config.schema import BCConfig
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning.ppo import cloning_loss
from gail_cli.gail.learning.progress import RunProgress
from gail_cli.gail.learning.run import RunError, RunFolder, load_cloned
from gail_cli.gail.networks.policy import Policy

_REPORT_EVERY = 100
"""Steps from one report of the loss to the next."""


def clone(
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    demos: Callable[[int], Transitions],
    config: BCConfig,
    progress: RunProgress,
    report: Callable[[dict[str, float], int], None],
    stop: Callable[[], bool],
) -> bool:
    """Clone experts from where ``progress`` is up to ``config.steps``.

    Args:
        policy: changed in place.
        optimiser: of the policy; its learning rate follows a cosine to zero.
        demos: gives as many expert samples as asked for.
        config: the settings.
        progress: kept up to date.
        report: called with the mean loss and the step, every hundred steps and at the end.
        stop: whether to stop, asked before each step.

    Returns:
        Whether all steps are done.
    """
    policy.train()
    begun = time.perf_counter()
    for step in range(progress.cloned, config.steps):
        if stop():
            return False
        rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        optimiser.param_groups[0]["lr"] = rate
        loss = cloning_loss(policy, demos(config.batch_size))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        progress.cloned += 1
        progress.unreported += 1
        progress.cloning_loss += loss.item()
        if (step + 1) % _REPORT_EVERY == 0 or step + 1 == config.steps:
            progress.seconds += time.perf_counter() - begun
            begun = time.perf_counter()
            mean = progress.cloning_loss / progress.unreported
            progress.cloning_loss, progress.unreported = 0.0, 0
            report({"bc/loss": mean}, step + 1)
    return True


def take_over(policy: Policy, folder: str | Path, device: torch.device) -> None:
    """Give a policy the weights of another run's policy, as that was after behaviour cloning.

    Raises:
        RunError: when that run has none, or it is of another network.
    """
    run = RunFolder(Path(folder))
    cloned = load_cloned(folder, str(device))
    if cloned is None:
        raise RunError(run.where, "it has no cloned policy", "name one that cloned (bc.run)")
    seen, theirs = policy.encoder.observation, cloned.encoder.observation
    for one in fields(seen):
        if getattr(theirs, one.name) != getattr(seen, one.name):
            key, was, now = f"observation.{one.name}", getattr(theirs, one.name), getattr(seen, one.name)
            raise RunError(run.where, f"its policy was cloned with {key}={was}, not {now}", f"set {key} alike")
    if cloned.space != policy.space:
        raise RunError(run.where, "its policy has other actions than the store", "name a clone for the same actions")
    try:
        policy.load_state_dict(cloned.state_dict())
    except RuntimeError as error:
        raise RunError(
            run.where, "its policy is another network than this run's", "set policy and latent.codes alike"
        ) from error
