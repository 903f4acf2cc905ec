"""``gail-cli evaluate``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np

from gail_cli.gail.commands.console import progress_bar, write_report
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.evaluation import evaluate as evaluation
from gail_cli.gail.evaluation.codes import Style, drive_codes, require_codes
from gail_cli.gail.evaluation.off_log import VARIANTS
from gail_cli.gail.evaluation.tables import print_challenge, print_codes, print_evaluation
from gail_cli.gail.evaluation.wosac import evaluate_challenge
from gail_cli.gail.learning.backends import with_backend
from gail_cli.gail.learning.run import RunFolder, load_cloned, load_run
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.errors import UserError


def evaluate(
    run: str,
    store: str,
    *,
    protocol: Literal["controlled", "wosac"],
    box_scale: float | None,
    backend: Literal["embedded", "gpudrive"] | None,
    splits: tuple[str, ...],
    bc: str | None,
    rollouts: int,
    sampled: bool,
    blind: bool,
    off_log: bool,
    variants: int | None,
    seed: int,
    device: str,
    picture: Path | None,
    scene: str | None,
    figure: Path | None,
    codes: Path | None,
    submitted: Path | None,
    info: dict[str, str],
    sources: tuple[str, ...],
    report: Path | None,
) -> None:
    """Drive a run's policy and its anchors through a store, print tables, and write what else is asked for.

    Args:
        run: folder of the run.
        store: folder, .zip or URL.
        protocol: who is scored, and from when on.
        box_scale: factor on collision boxes; that of the run when None.
        backend: simulator; that of the run when None.
        splits: which scenes; each split that has some when empty.
        bc: folder of the run whose cloned policy is an anchor; the run's own when None.
        rollouts: number K of drives with drawn actions.
        sampled: draw the policy's actions instead of taking the most likely ones.
        blind: drive also without other agents, or roads, in sight.
        off_log: drive also in variants of the scenes that begin off the log.
        variants: of each scene; 2 when None.
        seed: for all that is drawn.
        device: where to run.
        picture: file for the picture of a scene.
        scene: id of that scene; the first when None.
        figure: file for the figure of realism and distributions.
        codes: file for the figure of what latent codes mean.
        submitted: file for the submission.
        info: fields of the submission.
        sources: files that tell the heights of the submission, where the store does not keep them.
        report: file for the whole report.

    Raises:
        click.UsageError: for options of a submission that is not asked for, or of the other protocol.
    """
    if (info or sources) and submitted is None:
        raise click.UsageError("--submission-info and --submission-source are about --submission FILE; add that.")
    if protocol == "wosac" and (figure or codes or sampled or box_scale or blind or off_log or backend == "gpudrive"):
        these = "--figure, --codes, --sampled, --blind, --off-log, --box-scale and --backend gpudrive"
        raise click.UsageError(f"{these} are not for --protocol wosac.")
    if variants and not off_log:
        raise click.UsageError("--variants is about --off-log; add that.")
    config, policy = load_run(run, device)
    if codes is not None:
        require_codes(policy)
    config = with_backend(config, backend) if backend else config
    cloned = load_cloned(bc or run, device)
    opened = DemoStore(store, config.data.agents)
    chosen = evaluation.splits_of(opened, splits)
    drawn = opened.find(scene) if scene else next(iter(chosen.values()))[0]
    if submitted is not None:
        every = [index for scenes in chosen.values() for index in scenes]
        _write_submission(submitted, config, policy, opened, every, seed, info, sources)
    results = {}
    for split, scenes in chosen.items():
        with progress_bar("evaluating", "scenes") as progress:
            if protocol == "wosac":
                results[split] = evaluate_challenge(
                    policy, config, opened, cloned=cloned, scenes=scenes, rollouts=rollouts, seed=seed,
                    progress=progress,
                )  # fmt: skip
            else:
                results[split] = evaluation.evaluate(
                    policy, config, opened, cloned=cloned, scenes=scenes, box_scale=box_scale,
                    deterministic=not sampled, rollouts=rollouts, blind=blind,
                    off_log=(variants or VARIANTS) if off_log else 0, seed=seed, progress=progress,
                )  # fmt: skip
    styles = {} if codes is None else _by_codes(policy, config, opened, chosen, box_scale, not sampled, seed)
    for split, (section, _) in styles.items():
        results[split]["codes"] = section
    write_report(report, {"run": run, "store": store, "splits": results})
    show = print_challenge if protocol == "wosac" else print_evaluation
    for split, result in results.items():
        show(result, "" if split == "all" else split)
        if split in styles:
            print_codes(styles[split][0], "" if split == "all" else split)
    for line in _seen_in_training(run, config, opened, chosen):
        click.echo(f"Warning: {line}.", err=True)
    if cloned is None:
        click.echo(f"run {bc or run} keeps no policy from behaviour cloning, so that anchor is left out (--bc RUN)")
    if picture is not None:
        _draw_scene(picture, config, policy, opened, drawn)
    if figure is not None:
        _draw_results(figure, results)
    if codes is not None:
        _draw_codes(codes, styles)


def _seen_in_training(
    run: str, config: TrainConfig, store: DemoStore, chosen: Mapping[str, Sequence[int]]
) -> Iterator[str]:
    """What is to be said of scenes whose logs the run learned from in other stores, as far as these are still there.

    The splits of one store never have logs in common.
    """
    from gail_cli.pipeline.validate.against import seen

    for path in RunFolder(Path(run)).stores():
        if path == store.location:
            continue
        try:
            learned = DemoStore(path)
            found = [seen(store, scenes, learned, config.data.split) for scenes in chosen.values()]
        except UserError:
            continue
        for split, line in zip(chosen, found, strict=True):
            if line is not None:
                yield line if split == "all" else f"{split}: {line}"


def _draw_scene(file: Path, config: TrainConfig, policy: Policy, store: DemoStore, scene: int) -> None:
    from gail_cli.gail.figures.scene_figure import draw_scene

    draw_scene(policy, config, store, scene).savefig(file)
    click.echo(f"picture: {file}")


def _draw_results(file: Path, results: dict[str, dict[str, Any]]) -> None:
    from gail_cli.gail.figures.evaluation_figure import evaluation_figure

    evaluation_figure(results).savefig(file)
    click.echo(f"figure: {file}")


def _by_codes(
    policy: Policy, config: TrainConfig, store: DemoStore, chosen: Mapping[str, Sequence[int]],
    box_scale: float | None, deterministic: bool, seed: int,
) -> dict[str, tuple[dict[str, Any], dict[str, Style]]]:  # fmt: skip
    """How everyone drives by each code alone, for each split."""
    found = {}
    for split, scenes in chosen.items():
        with progress_bar("codes", "scenes") as progress:
            found[split] = drive_codes(
                policy, config, store, scenes=scenes, box_scale=box_scale, deterministic=deterministic, seed=seed,
                progress=progress,
            )  # fmt: skip
    return found


def _draw_codes(file: Path, styles: dict[str, tuple[dict[str, Any], dict[str, Style]]]) -> None:
    from gail_cli.gail.figures.codes_figure import codes_figure

    codes_figure(styles).savefig(file)
    click.echo(f"figure of codes: {file}")


def _write_submission(
    file: Path, config: TrainConfig, policy: Policy, store: DemoStore, scenes: list[int], seed: int,
    info: dict[str, str], sources: tuple[str, ...],
) -> None:  # fmt: skip
    from gail_cli.gail.evaluation.submission import read_heights, submission

    ids, kept = store.scene_ids(), np.isfinite(next(iter(store.read(scenes[:1]))).scene.origin_z)
    heights = read_heights(sources, {ids[k] for k in scenes}) if sources and not kept else None
    with progress_bar("submission", "scenes") as progress:
        message = submission(
            policy, config, store, scenes=scenes, heights=heights, info=info, seed=seed, progress=progress
        )
    file.write_bytes(message.SerializeToString())
    click.echo(f"submission: {file}" + ("" if kept or sources else ", all heights 0 (--submission-source tells them)"))
    if kept and sources:
        click.echo(f"--submission-source is not needed: store {store.path} keeps the heights of its scenes")
