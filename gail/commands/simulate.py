"""``gail-cli simulate``."""

from __future__ import annotations

from pathlib import Path

import click

from gail_cli.gail.commands.console import progress_bar
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.figures.episode import count_text, drive_scene, known_counts, list_events, with_rules
from gail_cli.gail.figures.render import render
from gail_cli.gail.learning.run import load_run
from gail_cli.pipeline.store.schema import StoreError
from gail_cli.pipeline.store.store import DemoStore


def simulate(
    store: str,
    *,
    file: Path,
    scene: str | None,
    driver: str | None,
    run: str | None,
    sampled: bool,
    seed: int,
    box_scale: float | None,
    everyone: bool,
    fps: int,
    dpi: int | None,
) -> None:
    """Drive one scene of a store, draw it, and print what happened.

    Args:
        store: folder, .zip or URL.
        file: film or picture to make.
        scene: id or index of the scene; the first when None.
        driver: who drives; the policy of ``run`` when None, or the expert where there is no run.
        run: folder of a trained run.
        sampled: draw the policy's actions instead of taking the most likely ones.
        seed: for all that is drawn.
        box_scale: factor on collision boxes; that of the run when None.
        everyone: with agents of every kind, and those that come later.
        fps: frames per second of a film.
        dpi: dots per inch; by the kind of file when None.

    Raises:
        click.UsageError: when the policy is meant and no run is named, or the other way round.
    """
    driver = driver or ("policy" if run else "expert")
    if sampled and driver != "policy":
        raise click.UsageError("--sampled is about a policy's actions; leave it out, or name a --run.")
    if driver == "policy" and run is None:
        raise click.UsageError("--policy policy needs the run that it comes from: --run FOLDER.")
    config, policy = load_run(run, "cpu") if run else (TrainConfig(), None)
    config = with_rules(config, box_scale, everyone)
    opened = DemoStore(store, config.data.agents)
    (record,) = opened.read([_scene_index(opened, scene)])
    episode = drive_scene(record, config, opened.space, driver, policy=policy, deterministic=not sampled, seed=seed)
    with progress_bar("drawing", "frames") as progress:
        render(episode, file, fps, dpi, progress)
    counts, agents = known_counts(episode, list_events(episode)), len(episode.controlled)
    what = ", ".join(
        f"{kind} not known: the map has no road edges" if count is None else count_text(kind, count, agents)
        for kind, count in counts.items()
    )
    click.echo(f"{file}: scene {episode.scene.id}, {episode.title.lower()}: {what}")


def _scene_index(store: DemoStore, scene: str | None) -> int:
    """Index of a scene that is named by its id or its index; the first when None."""
    if not len(store):
        raise StoreError(f"store {store.path}", "it has no scene", "extract some")
    if scene is None:
        return 0
    named = scene.isdecimal() and int(scene) < len(store) and scene not in store.scene_ids()
    return int(scene) if named else store.find(scene)
