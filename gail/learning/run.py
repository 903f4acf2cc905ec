"""A run's folder: what it was configured with, its checkpoint, and whether a store fits it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from gail_cli.gail.config.load import ConfigError, config_from_dict, flat
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.pipeline.validate.validate import Expectation, fit
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.errors import UserError

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
CHECKPOINT = "checkpoint.pt"
CLONED = "cloned.pt"
"""The policy as it was after behaviour cloning."""

_FIXED = ("algorithm", "observation")
"""Settings that a run keeps to its end, as what it has learned means nothing under others; networks tell by their
sizes, stores by their names."""

_FREE = ("total_timesteps", "checkpoint_every", "device", "wandb")
"""Settings that change nothing in what is learned."""


class RunError(UserError):
    """A run that cannot start or be read, in one sentence."""


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one.

    Raises:
        RunError: when CUDA is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError("device cuda: no CUDA device is there, or torch is a CPU build; use --device cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def chosen_stores(config: TrainConfig, named: Sequence[str] = (), resumed: str | Path | None = None) -> list[str]:
    """The stores that a run learns from: those named, or those that the run in the folder ``resumed`` learned from, or
    ``data.stores``, or ML-Agents' ``demo_path``.

    Raises:
        RunError: when there is none, or that run's environment.json cannot be read.
    """
    begun = resumed is not None and any((Path(resumed) / name).exists() for name in (ENVIRONMENT, CHECKPOINT))
    known = read_environment(Path(resumed))["stores"] if resumed is not None and begun else []
    demo_path = config.discriminator.mlagents.demo_path
    found = list(named or known or config.data.stores or ([] if demo_path is None else [demo_path]))
    if not found:
        raise RunError("no demo store is named; name one with --store, or in data.stores")
    return found


def expectation(config: TrainConfig) -> Expectation:
    """What a run asks of its store."""
    data = config.data
    return Expectation(data.dynamics, data.actions, data.grid, data.split, data.agents, learnable=True)


def check_fit(config: TrainConfig, store: DemoStore) -> None:
    """Whether the store holds what the run needs.

    Raises:
        RunError: naming the first thing that does not fit.
    """
    for problem in fit(store, expectation(config)):
        raise RunError(str(problem))


def read_environment(folder: Path) -> dict[str, Any]:
    """What a run's environment.json tells: ``stores``, ``action_space``, and ``resumed``, what was changed when.

    Raises:
        RunError: when the file is missing or damaged.
    """
    try:
        found = json.loads((folder / ENVIRONMENT).read_text())
        return {"resumed": [], **found, "stores": list(found["stores"])}
    except FileNotFoundError:
        raise RunError(f"run {folder}: {ENVIRONMENT} is missing; train again in another folder") from None
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"run {folder}: {ENVIRONMENT} is damaged; train again in another folder") from error


def changed_settings(folder: Path, config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Settings of a run that goes on with others than it had: by name, what they were and what they are.

    Raises:
        RunError: when the run's config.yaml is missing, or when what it learns cannot go on so.
        ConfigError: when that file is damaged.
    """
    try:
        before = flat(config_from_dict(yaml.safe_load((folder / CONFIG).read_text()), str(folder / CONFIG)))
    except FileNotFoundError:
        raise RunError(f"run {folder}: {CONFIG} is missing; train again in another folder") from None
    except yaml.YAMLError as error:
        raise RunError(f"run {folder}: {CONFIG} is damaged; train again in another folder") from error
    now = flat(config)
    changed = {
        name: (was, now[name]) for name, was in before.items() if was != now[name] and name.split(".")[0] not in _FREE
    }
    for name, (was, new) in changed.items():
        if name.split(".")[0] in _FIXED:
            raise RunError(f"run {folder}: it began with {name}={was}, not {new}; resume with that, or train anew")
    return changed


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
        config = config_from_dict(yaml.safe_load((root / CONFIG).read_text()), str(root / CONFIG))
        space = ActionSpace.from_json(json.loads((root / ENVIRONMENT).read_text())["action_space"])
        on = choose_device(device)
        policy = Policy(config.observation, space, config.policy, config.latent.codes).to(on)
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


def load_cloned(folder: str | Path, device: str = "auto") -> Policy | None:
    """The policy of a run as it was after behaviour cloning, an anchor for what came after; None where none was kept.

    Raises:
        RunError: as :func:`load_run`, or when the file is damaged.
    """
    _, policy = load_run(folder, device)
    try:
        state = torch.load(Path(folder) / CLONED, map_location=choose_device(device), weights_only=True)
        policy.load_state_dict(state)
    except FileNotFoundError:
        return None
    except Exception as error:  # torch and pickle raise many kinds
        raise RunError(f"run {folder}: {CLONED} is damaged; train again in another folder") from error
    return policy.eval()
