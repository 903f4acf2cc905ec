"""A run's folder: what is written there, what is read from it, and when it is refused; and the policies in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from gail_cli.gail.config.load import config_from_dict, config_to_dict, flat
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.networks.manager import make_manager
from gail_cli.gail.networks.policy import Policy
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.errors import UserError

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
CLONED = "cloned.pt"
"""The policy as it was after behaviour cloning."""

_FIXED = ("algorithm", "observation")
"""Settings that a run keeps to its end, as what it has learned means nothing under others; networks tell by their
sizes, stores by their names."""

_FREE = ("total_timesteps", "checkpoint_every", "device", "wandb")
"""Settings that change nothing in what is learned."""

_BEFORE: dict[str, dict[str, Any]] = {
    "observation": {"lights": 0, "near": False, "rays": False, "danger": False, "route": False},
    "ppo": {"train_encoder": 0},
}
"""What a run was before there was a setting for it, by section."""

_ELSEWHERE = "train again in another folder"


class RunError(UserError):
    """A run that cannot start or be read, in one sentence."""


@dataclass(frozen=True)
class Past:
    """What a run that goes on has been so far."""

    checkpoint: dict[str, Any]
    changed: dict[str, tuple[Any, Any]]
    """Settings that are others from here on: by name, what they were and what they are."""
    resumed: list[dict[str, Any]]
    """What was changed in earlier times: ``step`` and ``changed``."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, with its files.

    Reading raises RunError, one sentence, for a file that is missing or damaged, and ConfigError for a configuration
    that cannot be used.
    """

    path: Path

    @property
    def where(self) -> str:
        """The run, as errors name it."""
        return f"run {self.path}"

    # Going on, or beginning

    def begin(self, stores: Sequence[str]) -> None:
        """Make sure that a new run may have this folder; nothing is written.

        Args:
            stores: where the stores lie that it learns from.

        Raises:
            RunError: when there is a run already, or the folder lies in a store.
        """
        if (self.path / CHECKPOINT).exists():
            fix = "add --resume to go on, or name another folder"
            raise RunError(self.where, "there is a run already", fix)
        self._refuse_inside(stores)

    def restore(self, config: TrainConfig, stores: Sequence[str], device: torch.device) -> Past:
        """What the run has been, to go on from with a configuration; nothing is written.

        Args:
            config: with which it goes on.
            stores: where the stores lie with which it goes on.
            device: where the checkpoint's tensors shall be.

        Raises:
            RunError: when there is no checkpoint, or the run cannot go on so.
        """
        if not (self.path / CHECKPOINT).exists():
            raise RunError(self.where, "there is no checkpoint to go on from", "leave --resume out to begin")
        self._refuse_inside(stores)
        before = self.stores()
        if before != list(stores):
            what = f"it learned from {', '.join(before)}, not {', '.join(stores)}"
            raise RunError(self.where, what, "resume with that store")
        changed = self._changed(config)
        return Past(self.checkpoint(device), changed, self.environment().get("resumed", []))

    def _refuse_inside(self, stores: Sequence[str]) -> None:
        around = [str(self.path.resolve()), *map(str, self.path.resolve().parents)]
        if any(location in around for location in stores):
            raise RunError(self.where, "it would lie inside the store", "name another folder")

    def _changed(self, config: TrainConfig) -> dict[str, tuple[Any, Any]]:
        """Settings that differ from those that the run had; see :class:`Past`."""
        now = flat(config)
        changed = {
            name: (was, now[name])
            for name, was in flat(self.config()).items()
            if was != now[name] and name.split(".")[0] not in _FREE
        }
        for name, (was, new) in changed.items():
            if name.split(".")[0] in _FIXED:
                fix = "resume with that, or train anew"
                raise RunError(self.where, f"it began with {name}={was}, not {new}", fix)
        return changed

    # Reading

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Turn what goes wrong while a file is read into a RunError."""
        try:
            yield
        except FileNotFoundError:
            raise RunError(self.where, f"{name} is missing", _ELSEWHERE) from None
        except (OSError, UserError):
            raise
        except Exception as error:  # torch, pickle, yaml and json raise many kinds
            raise RunError(self.where, f"{name} is damaged", _ELSEWHERE) from error

    def require(self, *names: str) -> None:
        """Make sure that files are there.

        Raises:
            RunError: naming the first that is missing.
        """
        for name in names:
            if not (self.path / name).exists():
                raise RunError(self.where, f"{name} is missing", "make a run with `gail-cli train`")

    def config(self) -> TrainConfig:
        """What the run was configured with."""
        with self.reading(CONFIG):
            data = yaml.safe_load((self.path / CONFIG).read_text())
            data |= {section: before | data.get(section, {}) for section, before in _BEFORE.items()}
            return config_from_dict(data, str(self.path / CONFIG))

    def environment(self) -> dict[str, Any]:
        """What the run learned in and from: ``action_space``, ``stores``, and ``resumed``, what was changed when."""
        with self.reading(ENVIRONMENT):
            return dict(json.loads((self.path / ENVIRONMENT).read_text()))

    def stores(self) -> list[str]:
        """Where the stores lie that the run learned from."""
        with self.reading(ENVIRONMENT):
            return list(self.environment()["stores"])

    def space(self) -> ActionSpace:
        """The actions of these stores."""
        with self.reading(ENVIRONMENT):
            return ActionSpace.from_json(self.environment()["action_space"])

    def checkpoint(self, device: torch.device) -> dict[str, Any]:
        """What the run saved last."""
        with self.reading(CHECKPOINT):
            return dict(torch.load(self.path / CHECKPOINT, map_location=device, weights_only=True))

    def cloned(self, device: torch.device) -> dict[str, Any] | None:
        """The state of the policy after behaviour cloning; None where none was kept."""
        if not (self.path / CLONED).exists():
            return None
        with self.reading(CLONED):
            return dict(torch.load(self.path / CLONED, map_location=device, weights_only=True))

    # Writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a folder that cannot be written into a RunError."""
        try:
            yield
        except OSError as error:
            what, fix = f"cannot be written ({error.strerror})", "choose another folder"
            raise RunError(self.where, what, fix) from error

    def describe(
        self, config: TrainConfig, space: ActionSpace, stores: Sequence[str], resumed: Sequence[dict[str, Any]]
    ) -> None:
        """Write down what the run is, for :meth:`config` and :meth:`environment`; the folder is made if need be."""
        environment = {"action_space": space.to_json(), "stores": list(stores), "resumed": list(resumed)}
        self.path.mkdir(parents=True, exist_ok=True)
        self._write(CONFIG, lambda file: file.write_text(yaml.safe_dump(config_to_dict(config), sort_keys=False)))
        self._write(ENVIRONMENT, lambda file: file.write_text(json.dumps(environment, indent=1)))

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint, whole or not at all."""
        self.write(CHECKPOINT, state)

    def write(self, name: str, state: dict[str, Any]) -> None:
        """Write a file of tensors and numbers, whole or not at all."""
        self._write(name, lambda file: torch.save(state, file))

    def _write(self, name: str, write: Callable[[Path], object]) -> None:
        temporary = self.path / f".{name}"
        write(temporary)
        temporary.replace(self.path / name)


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one.

    Raises:
        RunError: when CUDA is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError("device cuda", "no CUDA device is there, or torch is a CPU build", "use --device cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def chosen_stores(config: TrainConfig, named: Sequence[str] = (), resumed: str | Path | None = None) -> list[str]:
    """The stores that a run learns from: those named, or those that the run in the folder ``resumed`` learned from, or
    ``data.stores``, or ML-Agents' ``demo_path``.

    Raises:
        RunError: when there is none, or that run's environment.json cannot be read.
    """
    begun = resumed is not None and any((Path(resumed) / name).exists() for name in (ENVIRONMENT, CHECKPOINT))
    known = RunFolder(Path(resumed)).stores() if resumed is not None and begun else []
    demo_path = config.discriminator.mlagents.demo_path
    found = list(named or known or config.data.stores or ([] if demo_path is None else [demo_path]))
    if not found and resumed is not None:
        raise RunError(
            RunFolder(Path(resumed)).where, "there is no checkpoint to go on from", "leave --resume out to begin"
        )
    if not found:
        raise RunError("", "no demo store is named", "name one with --store, or in data.stores")
    return found


def load_run(folder: str | Path, device: str = "auto") -> tuple[TrainConfig, Policy]:
    """Configuration and policy of a run; the policy's ``space`` is that of the store it was trained on, its ``manager``
    is the run's.

    Raises:
        RunError: when the folder holds no run, or its files are damaged.
        ConfigError: when its configuration cannot be used.
    """
    config, policy, state = _load(folder, device)
    manager = make_manager(config, policy)
    if manager is not None:
        with _of_other_networks(folder):
            manager.load_state_dict(state["manager"]["manager"])
        policy.manager = manager.to(next(policy.parameters()).device)
    return config, policy.eval()


def load_cloned(folder: str | Path, device: str = "auto") -> Policy | None:
    """The policy of a run as it was after behaviour cloning, an anchor for what came after; None where none was kept.

    Raises:
        RunError: as :func:`load_run`, or when the file is damaged.
    """
    _, policy, _ = _load(folder, device)
    run = RunFolder(Path(folder))
    state = run.cloned(choose_device(device))
    if state is None:
        return None
    with run.reading(CLONED):
        policy.load_state_dict(state)
    return policy.eval()


def _load(folder: str | Path, device: str) -> tuple[TrainConfig, Policy, dict[str, Any]]:
    """Configuration, policy and checkpoint of a run."""
    run = RunFolder(Path(folder))
    run.require(CONFIG, ENVIRONMENT, CHECKPOINT)
    config, space, on = run.config(), run.space(), choose_device(device)
    state = run.checkpoint(on)
    with _of_other_networks(folder):
        codes, flags = config.latent.codes, not config.shares_eyes
        policy = Policy(config.observation, space, config.policy, codes, flags).to(on)
        policy.load_state_dict(state["networks"]["policy"])
    return config, policy, state


@contextmanager
def _of_other_networks(folder: str | Path) -> Iterator[None]:
    """Turn what goes wrong while a checkpoint's networks are read into a RunError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        what = " ".join(str(error).split())
        raise RunError(RunFolder(Path(folder)).where, f"cannot be read ({what})", "train again") from error
