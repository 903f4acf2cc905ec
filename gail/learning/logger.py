"""What a run measures, written down as it goes: metrics.jsonl, TensorBoard, and Weights & Biases where wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from gail_cli.gail.config.schema import WandbConfig
from gail_cli.gail.learning.run import METRICS, RunError


class MetricsLogger:
    """The measurements of a run, under the same names everywhere.

    Args:
        folder: of the run; must exist.
        wandb: its ``project`` switches Weights & Biases on.
        settings: the run's whole configuration, for Weights & Biases to show.
        cloned: cloning steps that count; later ones, which a killed run had measured, are taken out of the file.
        iteration: rollouts that count, likewise.

    Raises:
        RunError: when Weights & Biases is asked for and not installed.
        OSError: when the folder cannot be written.
    """

    def __init__(
        self, folder: Path, wandb: WandbConfig, settings: Mapping[str, Any], cloned: int, iteration: int
    ) -> None:
        self._file = folder / METRICS
        self._keep(cloned, iteration)
        self._wandb = _begin_wandb(folder, wandb, settings)
        self._writer = SummaryWriter(folder / "tensorboard")

    def write(self, metrics: Mapping[str, float], step: int, **more: float) -> None:
        """Write metrics of a step down; ``more`` goes into the file only."""
        with self._file.open("a") as file:
            file.write(json.dumps({**more, "step": step, **metrics}) + "\n")
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log({**metrics, "step": step})

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        """Show how values are spread, in TensorBoard."""
        self._writer.add_histogram(name, values, step)

    def close(self) -> None:
        """Close files and connections."""
        self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _keep(self, cloned: int, iteration: int) -> None:
        lines = self._file.read_text().splitlines(keepends=True) if self._file.exists() else []

        def counts(text: str) -> bool:
            try:
                line = json.loads(text)
            except ValueError:  # a killed run may have written half a line
                return False
            if "bc/loss" in line:
                return bool(line["step"] <= cloned)
            return bool(line["iteration"] <= iteration)

        self._file.write_text("".join(line for line in lines if line.endswith("\n") and counts(line)))


def _begin_wandb(folder: Path, wanted: WandbConfig, settings: Mapping[str, Any]) -> Any:
    """The Weights & Biases run of a folder, the same one again when it goes on; None when there is to be none."""
    if wanted.project is None:
        return None
    try:
        import wandb
    except ImportError as error:
        fix = "`pip install 'gail-cli[wandb]'`, or leave it out"
        raise RunError("", "wandb.project is set, but wandb is not installed", fix) from error
    remembered = folder / "wandb-id.txt"
    known = remembered.read_text().strip() if remembered.exists() else None
    run = wandb.init(
        project=wanted.project,
        entity=wanted.entity,
        group=wanted.group,
        name=wanted.name or folder.name,
        mode=wanted.mode,
        dir=folder,
        config=dict(settings),
        id=known,
        resume="allow",
    )
    remembered.write_text(str(run.id))
    run.define_metric("*", step_metric="step")
    return run
