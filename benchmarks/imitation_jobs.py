"""One run of a comparison: trained, with what it was at some steps, and evaluated, each in a process of its own."""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.recipes import clone_settings, setting

EVALUATION, SECONDS, SETTINGS = "evaluation.json", "seconds.json", "settings.json"
_SNAPSHOT = ("config.yaml", "environment.json", "checkpoint.pt")


class OtherSettingsError(Exception):
    """A run is there already, made with other settings."""


@dataclass(frozen=True)
class Job:
    """A run to make."""

    recipe: str
    settings: tuple[str, ...]
    """Of the recipe, over the defaults and :attr:`common`."""
    common: tuple[str, ...]
    """Settings of all runs."""
    fold: int
    seed: int
    folder: Path
    """Where the runs are."""
    store: Path
    """That of its fold."""
    steps: tuple[int, ...] = ()
    """Agent steps at which the policy is kept and evaluated too, before the end."""

    @property
    def clones_only(self) -> bool:
        """Whether it is a clone, and nothing after."""
        return setting(self.settings, "algorithm", "bc+gail") == "bc"

    @property
    def run(self) -> Path:
        """Its folder; clones are called by what makes them another clone."""
        what = self.settings if self.clones_only else (self.recipe,)
        name = "-".join(re.sub("[^a-z0-9+.]+", "-", part.lower()) for part in what).removeprefix("algorithm-")
        return self.folder / "runs" / f"{name}-{self.store.name}-seed{self.seed}"

    @property
    def clone(self) -> Job | None:
        """The run whose cloned policy it begins with; itself if it is one, None if it begins with nothing."""
        made = clone_settings(self.settings)
        if made is None:
            return None
        name = self.recipe if self.clones_only else ", ".join(("clone", *made[1:]))
        return Job(name, made, self.common, self.fold, self.seed, self.folder, self.store)

    @property
    def all_settings(self) -> list[str]:
        """What it is trained with."""
        begun = [] if self.clone is None or self.clones_only else [f"bc.run={self.clone.run}"]
        return [f"seed={self.seed}", *self.common, *self.settings, *begun]

    def at(self, step: int) -> Path:
        """The folder of what it was after so many steps."""
        return self.run / f"at-{step}"


def train(job: Job, threads: int) -> None:
    """Make the run, or go on with it; with the seconds it took, and the policies that it was on the way.

    Raises:
        OtherSettingsError: when there is one already with other settings.
    """
    import torch

    from gail_cli.gail.config.load import load_config
    from gail_cli.gail.learning.run import CLONED
    from gail_cli.gail.learning.trainer import Trainer

    torch.set_num_threads(threads)
    _remember(job)
    config = load_config(None, job.all_settings)
    total = config.rollout_timesteps
    for step in (*sorted(step for step in job.steps if step < total), total):
        if _done(job, step, last=step == total):
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        trainer = Trainer(config, str(job.store), job.run, (job.run / "checkpoint.pt").exists())
        trainer.run(lambda trainer=trainer, step=step: step < total and trainer.progress.timesteps >= step)
        _add_seconds(job.run / SECONDS, time.perf_counter() - wall, time.process_time() - cpu)
        if step < total:
            job.at(step).mkdir(parents=True, exist_ok=True)
            for name in (*_SNAPSHOT, *([CLONED] if (job.run / CLONED).exists() else [])):
                shutil.copy(job.run / name, job.at(step) / name)
            shutil.copy(job.run / SECONDS, job.at(step) / SECONDS)
        else:
            (job.run / "done").touch()


def _done(job: Job, step: int, last: bool) -> bool:
    return (job.run / "done").exists() if last else (job.at(step) / SECONDS).exists()


def _remember(job: Job) -> None:
    file, settings = job.run / SETTINGS, job.all_settings
    if not file.exists():
        job.run.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    elif json.loads(file.read_text()) != settings:
        raise OtherSettingsError(f"{job.run} was made with other settings; name another folder, or remove it")


def _add_seconds(file: Path, wall: float, cpu: float) -> None:
    before = json.loads(file.read_text()) if file.exists() else {"wall": 0.0, "cpu": 0.0}
    file.write_text(json.dumps({"wall": before["wall"] + wall, "cpu": before["cpu"] + cpu}))


def seconds(job: Job, step: int | None = None) -> dict[str, float]:
    """Seconds of the clock and of all cores that it took until a step, or to the end, its clone included."""
    own = json.loads(((job.run if step is None else job.at(step)) / SECONDS).read_text())
    if job.clone is None or job.clones_only:
        return dict(own)
    begun = json.loads((job.clone.run / SECONDS).read_text())
    return {name: own[name] + begun[name] for name in own}


def judge(job: Job, split: str, rollouts: int, blind: bool, threads: int) -> None:
    """Evaluate the run on a split, on the log and off it, and what it was on the way; each is kept in its folder.

    Anchors drive beside clones only, as they are the same beside all.
    """
    import torch

    from gail_cli.gail.evaluation.evaluate import evaluate
    from gail_cli.gail.evaluation.off_log import VARIANTS
    from gail_cli.gail.learning.run import load_run
    from gail_cli.pipeline.store.store import DemoStore

    torch.set_num_threads(threads)
    for folder in (*(job.at(step) for step in job.steps if job.at(step).exists()), job.run):
        if (folder / EVALUATION).exists():
            continue
        config, policy = load_run(folder)
        store = DemoStore(job.store)
        found = evaluate(
            policy, config, store, scenes=store.scenes_of(split).tolist(), anchors=job.clones_only, rollouts=rollouts,
            blind=blind and folder == job.run, off_log=VARIANTS,
        )  # fmt: skip
        (folder / f".{EVALUATION}").write_text(json.dumps(found))
        (folder / f".{EVALUATION}").replace(folder / EVALUATION)


def report(folder: Path) -> dict[str, Any]:
    """The evaluation of a run."""
    return dict(json.loads((folder / EVALUATION).read_text()))
