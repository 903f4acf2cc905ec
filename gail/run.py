"""A run's folder: what it was configured with, its checkpoint, and whether a store fits it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from gail.config import ConfigError, TrainConfig, config_from_dict
from gail.policy import Policy
from pipeline.store import DemoStore
from pipeline.validate import Expectation, fit
from sim.actions import ActionSpace

CHECKPOINT = "checkpoint.pt"


class RunError(ValueError):
    """A run that cannot start or be read, in one sentence."""


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one.

    Raises:
        RunError: when CUDA is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError("device cuda: no CUDA device is there, or torch is a CPU build; use --device cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def expectation(config: TrainConfig) -> Expectation:
    """What a run asks of its store."""
    data = config.data
    return Expectation(
        data.dynamics, data.actions, data.grid, config.worlds.num_worlds, data.split, data.agents, learnable=True
    )


def check_fit(config: TrainConfig, store: DemoStore) -> None:
    """Whether the store holds what the run needs.

    Raises:
        RunError: naming the first thing that does not fit.
    """
    for problem in fit(store, expectation(config)):
        raise RunError(str(problem))


def read_checkpoint(folder: Path, device: torch.device) -> dict[str, Any]:
    """What a run saved last.

    Raises:
        RunError: when the file is damaged.
        FileNotFoundError: when it is missing.
    """
    try:
        return dict(torch.load(folder / CHECKPOINT, map_location=device, weights_only=True))
    except OSError:
        raise
    except Exception as error:  # torch and pickle raise many kinds
        raise RunError(f"run {folder}: {CHECKPOINT} is damaged; train again in another folder") from error


def load_run(folder: str | Path, device: str = "auto") -> tuple[TrainConfig, Policy]:
    """Configuration and policy of a run; the policy's ``space`` is that of the store it was trained on.

    Raises:
        RunError: when the folder holds no run, or its files are damaged.
    """
    root = Path(folder)
    try:
        config = config_from_dict(yaml.safe_load((root / "config.yaml").read_text()), str(root / "config.yaml"))
        space = ActionSpace.from_json(json.loads((root / "environment.json").read_text())["action_space"])
        on = choose_device(device)
        policy = Policy(config.observation, space, config.policy).to(on)
        policy.load_state_dict(read_checkpoint(root, on)["networks"]["policy"])
    except FileNotFoundError as error:
        raise RunError(
            f"run {root}: {Path(error.filename).name} is missing; make a run with `gail-cli train`"
        ) from None
    except (KeyError, TypeError, ValueError, RuntimeError, yaml.YAMLError) as error:
        if isinstance(error, (ConfigError, RunError)):
            raise
        what = " ".join(str(error).split())
        raise RunError(f"run {root}: cannot be read ({what}); train again") from error
    return config, policy.eval()
