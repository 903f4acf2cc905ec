"""Compares ``gail-cli score`` with the challenge's own scorer, in an environment of its own (``make wosac-parity``).

    python -m benchmarks.wosac_parity --scenes SCENES... [--submission FILE...] [--cases N] [--folder FOLDER]

Each submission is scored by both; without one, drives are made up for the scenes (benchmarks.wosac_cases), of which N
are taken. Prints the largest difference of every component and of every per-step feature. The official scorer takes one
to three minutes of CPU a scene, and the environment about 2 GB and some minutes, once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.wosac_cases import message_of, restless, with_roles
from gail_cli.gail.evaluation.challenge import OFFICIAL_NAMES
from gail_cli.gail.evaluation.logged import index_scenes, log_of_file, read_logged
from gail_cli.gail.evaluation.realism import COMPONENTS
from gail_cli.gail.evaluation.scoring import measure, score_submission
from gail_cli.gail.evaluation.submitted import read_submission
from gail_cli.pipeline.readers.protos import sim_agents_submission_pb2 as schema
from gail_cli.pipeline.readers.sources import SceneRef
from gail_cli.pipeline.readers.tfrecord import read_records_at, write_records

PACKAGES = ("tensorflow-cpu==2.13.1", "tensorflow_probability==0.21.0", "numpy==1.23.5", "scikit-learn==1.3.2")
SCORER = "waymo-open-dataset-tf-2-12-0==1.6.7"
COMPONENT_TOLERANCE, REALISM_TOLERANCE = 0.005, 0.002
_FEATURES = {"red_light": "traffic_light_violation_per_step"}
"""Features that have another name there."""


def environment(folder: Path) -> Path:
    """The Python of an environment with the official scorer, which is made if it is not there."""
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        print(f"making {folder}, once", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PACKAGES], check=True)
        subprocess.run([*pip, "--no-deps", SCORER], check=True)
        ready.touch()
    return python


def gathered(refs: Iterable[SceneRef], file: Path) -> None:
    """Write the scenes as one TFRecord of Scenario messages; those of other formats become such messages."""
    records = []
    for ref in refs:
        if ref.record is not None:
            records.extend(read_records_at(ref.path, [ref.offset]))
        else:
            records.append(message_of(with_roles(read_logged(ref).scenario)).SerializeToString())
    write_records(str(file), records)


def made_up(scenes: Path, file: Path) -> None:
    """Write a submission of made-up drives for all scenes of a TFRecord."""
    message = schema.SimAgentsChallengeSubmission()
    for seed, ref in enumerate(index_scenes([str(scenes)]).values()):
        message.scenario_rollouts.append(restless(read_logged(ref).scenario, seed))
    file.write_bytes(message.SerializeToString())


def differences(
    submission: Path, scenes: Path, official: dict[str, Any], features: Any
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """By component (and realism), each scene's difference of ours from the official number; and by per-step feature,
    each scene's largest difference."""
    ours = score_submission([str(submission)], [str(scenes)])["scenes"]
    apart: dict[str, list[float]] = {}
    for name, theirs in official.items():
        for year in ("2025", "2024"):
            of_year = ours[name][f"realism_{year}"] - theirs[year]["metametric"]
            apart.setdefault(f"realism {year}", []).append(of_year)
        for component in COMPONENTS:
            there = theirs["2025"][f"{OFFICIAL_NAMES.get(component.name, component.name)}_likelihood"]
            apart.setdefault(component.name, []).append(ours[name][f"likelihood_{component.name}"] - there)
        apart.setdefault("ADE", []).append(ours[name]["ade"] - theirs["2025"]["average_displacement_error"])
    return apart, _of_features(submission, scenes, features)


def _of_features(submission: Path, scenes: Path, features: Any) -> dict[str, list[float]]:
    places, apart = index_scenes([str(scenes)]), {}
    for rollouts, _ in read_submission([submission]):
        log = log_of_file(read_logged(places[rollouts.scene]))
        logged, drives = measure(rollouts, log)
        ids = log.objects[log.worlds.selected[0].controlled].tolist()
        order = [ids.index(number) for number in features[f"{rollouts.scene}/log_object_id"].tolist()]
        valid = features[f"{rollouts.scene}/log_valid"][0]
        vehicle = (features[f"{rollouts.scene}/log_object_type"][0] == 1)[:, None]
        for name in logged:
            there = _FEATURES.get(name, name)
            if name == "valid":
                continue
            mine = np.stack([found[name].numpy()[order] for found in (logged, *drives)]).astype(np.float64)
            theirs = np.concatenate([features[f"{rollouts.scene}/{kind}_{there}"] for kind in ("log", "sim")])
            counted = np.broadcast_to(valid, theirs.shape).copy()
            counted[1:] = True
            if name in ("time_to_collision", "red_light"):
                counted = counted & vehicle
            counted &= ~np.isnan(theirs)
            limit = 1e3  # speeds that were made of invalid states are large, and no more exact than float32
            with np.errstate(invalid="ignore"):
                gap = np.abs(np.clip(mine, -limit, limit) - np.clip(theirs, -limit, limit))
            gap = np.where(np.isnan(gap), np.inf, gap)[counted]
            apart.setdefault(name, []).append(float(gap.max(initial=0.0)))
            apart.setdefault(f"{name}: share of steps above 0.01", []).append(float((gap > 0.01).mean()))
    return apart


def compare(python: Path, submission: Path, scenes: Path, folder: Path) -> dict[str, Any]:
    """Score with both; what the official scorer found is kept in the folder, and not looked for again."""
    out, features = folder / f"{submission.stem}.official.json", folder / f"{submission.stem}.official.npz"
    if not (out.exists() and features.exists()):
        script = Path(__file__).parent / "wosac_official.py"
        command = [str(python), str(script), str(submission.resolve()), str(scenes), str(out), str(features)]
        subprocess.run(command, check=True)
    with np.load(features) as arrays:
        components, steps = differences(submission, scenes, json.loads(out.read_text()), arrays)
    return {"components": components, "features": steps}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and return how many numbers are further apart than they may be."""
    parser = argparse.ArgumentParser(prog="benchmarks.wosac_parity")
    parser.add_argument("--scenes", nargs="+", required=True, help="files, folders or globs of scenes")
    parser.add_argument("--submission", nargs="*", default=[], type=Path, help=".binproto files; made up when none")
    parser.add_argument("--cases", type=int, default=4, help="scenes with made-up drives, 0 for all")
    parser.add_argument("--folder", type=Path, default=Path(".wosac"), help="for the environment and what is made")
    given = parser.parse_args(arguments)
    given.folder = given.folder.resolve()
    given.folder.mkdir(parents=True, exist_ok=True)
    python = environment(given.folder / "environment")
    places = index_scenes(given.scenes)
    pairs = []
    for submission in given.submission:
        wanted = [rollouts.scene for rollouts, _ in read_submission([submission])]
        scenes = given.folder / f"{submission.stem}.tfrecord"
        gathered((places[name] for name in wanted), scenes)
        pairs.append((submission, scenes))
    if not pairs:
        scenes, submission = given.folder / "made-up.tfrecord", given.folder / "made-up.binproto"
        gathered(list(places.values())[: given.cases or None], scenes)
        made_up(scenes, submission)
        pairs.append((submission, scenes))
    found = {submission.stem: compare(python, submission, scenes, given.folder) for submission, scenes in pairs}
    (given.folder / "parity.json").write_text(json.dumps(found, indent=1))
    return _print(found)


def _print(found: dict[str, Any]) -> int:
    """A table of the largest differences, and how many are too large."""
    table = Table("", *found)
    wrong = 0
    for kind in ("components", "features"):
        for name in next(iter(found.values()))[kind]:
            row = []
            for result in found.values():
                largest = max(result[kind][name], key=abs)
                limit = REALISM_TOLERANCE if name.startswith("realism") else COMPONENT_TOLERANCE
                bad = kind == "components" and name != "ADE" and not abs(largest) <= limit
                wrong += bad
                row.append(f"{largest:+.2e}" + (" !" if bad else ""))
            table.add_row(name.replace("_", " "), *row)
    Console(width=140).print(table)
    print(f"{wrong} number(s) further apart than {COMPONENT_TOLERANCE:g} (realism: {REALISM_TOLERANCE:g})")
    return wrong


if __name__ == "__main__":
    sys.exit(main() > 0)
