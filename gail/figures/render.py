"""Films and pictures of an episode."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import imageio_ffmpeg  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gail_cli.gail.figures.episode import Episode
from gail_cli.gail.figures.episode_figure import EpisodeFigure
from gail_cli.gail.learning.run import RunError
from gail_cli.pipeline.store.files import aside
from gail_cli.sim.scenario import DT

ProgressCallback = Callable[[int, int], None]

DPI = {".png": 200, ".pdf": 200, ".svg": 200, ".mp4": 160, ".gif": 100}
"""By the endings of files that can be written."""
_PAUSE = 1.5
"""How long a GIF, which begins anew, stands still at its end, s."""


def render(
    episode: Episode,
    file: Path,
    fps: float = 1 / DT,
    dpi: float | None = None,
    progress: ProgressCallback = lambda done, total: None,
) -> None:
    """Write a picture (.png, .pdf, .svg) or a film (.gif, .mp4) of an episode; the file is whole or as it was before.

    Args:
        episode: what is shown.
        file: where to.
        fps: frames per second; 10 is real time.
        dpi: dots per inch of a map of up to 10 by 7.5 inches; by the kind of file when None.
        progress: called with frames done and frames in all.

    Raises:
        RunError: when a film cannot be encoded.
    """
    films = {".gif": _write_gif, ".mp4": _write_mp4}
    ending = file.suffix.lower()
    figure, temporary = EpisodeFigure(episode, dpi or DPI[ending]), aside(file)
    try:
        if ending in films:
            films[ending](temporary, figure, fps, progress)
        else:
            figure.whole().savefig(temporary, format=ending[1:])
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _frames(figure: EpisodeFigure, progress: ProgressCallback) -> Iterator[NDArray[np.uint8]]:
    for step in range(figure.episode.steps):
        yield figure.frame(step)
        progress(step + 1, figure.episode.steps)


def _write_gif(file: Path, figure: EpisodeFigure, fps: float, progress: ProgressCallback) -> None:
    """One palette for all frames: what stands still does not flicker."""
    last = figure.episode.steps - 1
    sample = Image.fromarray(np.concatenate([figure.frame(step) for step in (0, last // 2, last)]))
    # Maximum coverage finds small things of a colour of their own; k-means then brings large areas to theirs. The
    # 256th index is left for "as before", with which Pillow writes what does not change from frame to frame.
    palette = sample.quantize(255, Image.Quantize.MAXCOVERAGE, kmeans=1)
    pictures = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in _frames(figure, progress)
    ]
    # A GIF counts in hundredths of a second: rounding the times of frames, not their lengths, keeps the speed.
    times = [10 * round(100 * step / fps) for step in range(last + 1)]
    lengths = [*np.diff(times).tolist(), round(1000 * _PAUSE)]
    pictures[0].save(
        file, format="GIF", save_all=True, append_images=pictures[1:], duration=lengths, loop=0, disposal=1
    )


def _write_mp4(file: Path, figure: EpisodeFigure, fps: float, progress: ProgressCallback) -> None:
    """H.264 as every player takes it: even sizes, 4:2:0, BT.709 (which players assume)."""
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise RunError("mp4", "there is no ffmpeg for this machine", "install one, or write a .gif") from error
    height, width = (n // 2 * 2 for n in figure.frame(0).shape[:2])
    read = f"-v error -y -f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -"
    colour = "-vf scale=out_color_matrix=bt709 -colorspace bt709"
    write = "-c:v libx264 -crf 16 -pix_fmt yuv420p -movflags +faststart -f mp4"
    command = [program, *read.split(), *colour.split(), *write.split(), str(file.absolute())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as encoder:
        assert encoder.stdin is not None
        with suppress(BrokenPipeError):  # its stderr says why
            for frame in _frames(figure, progress):
                encoder.stdin.write(frame[:height, :width].tobytes())
        complaint = encoder.communicate()[1].decode(errors="replace")
    if encoder.returncode:
        raise RunError("mp4", f"ffmpeg failed ({' '.join(complaint.split())})")
