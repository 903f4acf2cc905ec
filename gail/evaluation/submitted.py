"""Reading submissions to Waymo's sim agents challenge, of whoever's making: what was simulated of each scene."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from gail_cli.gail.evaluation.challenge import ROLLOUTS, STEPS
from gail_cli.pipeline.readers.protos import sim_agents_submission_pb2 as schema
from gail_cli.sim.errors import UserError

FARTHEST = 1e7
"""Farthest from the origin of the scene's file that a place may be, m: what no map of the Earth has."""
_FIELDS = ("center_x", "center_y", "center_z", "heading")
_GZIP_START = b"\x1f\x8b"
_ENDINGS = ("*.binproto*", "*.tar.gz", "*.tgz", "*.tar")


class SubmissionError(UserError):
    """A submission that can not be read, or does not fit the scenes."""


@dataclass(frozen=True, eq=False)
class Rollouts:
    """K drives of one scene."""

    scene: str
    """Its id."""
    file: str
    """That it was read from, and its name in an archive."""
    object_id: NDArray[np.int64]
    """[A]."""
    state: NDArray[np.float32]
    """[K, A, 80, 4] x, y, z, heading in the frame of the scene's file."""

    def of(self, objects: Sequence[int]) -> NDArray[np.float32]:
        """[K, M, 80, 4] of these objects in their order.

        Raises:
            SubmissionError: when one is missing, or another is there.
        """
        place = {number: k for k, number in enumerate(self.object_id.tolist())}
        where, fix = (
            f"{self.file}: scene {self.scene!r}",
            "simulate every object that is valid at step 10, and no other",
        )
        if missing := [number for number in objects if number not in place]:
            raise SubmissionError(where, f"the submission lacks object(s) {_some(missing)}", fix)
        if more := sorted(set(place) - set(objects)):
            raise SubmissionError(where, f"object(s) {_some(more)} of the submission are not there at step 10", fix)
        return self.state[:, [place[number] for number in objects]]


def submission_files(names: Sequence[str]) -> list[Path]:
    """The files behind files and folders.

    Raises:
        SubmissionError: when one does not exist, or a folder has no submission.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted({file for ending in _ENDINGS for file in path.glob(ending) if file.is_file()})
            if not inside:
                raise SubmissionError("", f"{name} has no submission", f"they end in {', '.join(_ENDINGS)}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise SubmissionError("", f"{name} does not exist", "give a submission's file or folder")
    return found


def read_submission(files: Sequence[Path]) -> Iterator[tuple[Rollouts, int]]:
    """Every scene of a submission's files, one after the other: ``SimAgentsChallengeSubmission`` messages, also
    compressed with gzip, also in a tar archive as it is uploaded; each with how many there are in all, as far as read.

    Raises:
        SubmissionError: at the first that can not be read, has not 32 drives of 80 steps, or holds a number that is
            not finite, or a place beyond :data:`FARTHEST`; or when a scene comes twice.
    """
    seen: set[str] = set()
    total = 0
    for path in files:
        with path.open("rb") as file:
            for name, data in _messages(path, file):
                message = _parsed(name, data)
                total += len(message.scenario_rollouts)
                for rollouts in message.scenario_rollouts:
                    if rollouts.scenario_id in seen:
                        what = f"scene {rollouts.scenario_id!r} is in the submission twice"
                        raise SubmissionError(name, what, "leave one of the two out")
                    seen.add(rollouts.scenario_id)
                    yield _rollouts(name, rollouts), total
    if not seen:
        raise SubmissionError(str(files[0]), "it holds no scene", "give a SimAgentsChallengeSubmission")


def _messages(path: Path, file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each message of a file."""
    try:
        start = file.read(2)
        file.seek(0)
        packed = start == _GZIP_START
        stream: Any = gzip.GzipFile(fileobj=file) if packed else file
        head = stream.read(512)
        stream.seek(0)
        if head[257:262] == b"ustar":
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    content = archive.extractfile(member)
                    if content is not None:
                        data = content.read()
                        yield f"{path}, {member.name}", gzip.decompress(data) if data[:2] == _GZIP_START else data
        else:
            yield str(path), stream.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise SubmissionError(str(path), f"it can not be read ({error})", "check the file") from error


def _parsed(name: str, data: bytes) -> Any:
    message = schema.SimAgentsChallengeSubmission()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise SubmissionError(name, "it is no SimAgentsChallengeSubmission", "give a .binproto of one") from error
    return message


def _rollouts(file: str, message: Any) -> Rollouts:
    where = f"{file}: scene {message.scenario_id!r}"
    if len(message.joint_scenes) != ROLLOUTS:
        what = f"the submission has {len(message.joint_scenes)} drives of it"
        raise SubmissionError(where, what, f"the challenge asks for {ROLLOUTS}")
    ids: NDArray[np.int64] | None = None
    states = []
    for number, joint in enumerate(message.joint_scenes):
        here = np.array([t.object_id for t in joint.simulated_trajectories], np.int64)
        order = np.argsort(here, kind="stable")
        if len(doubled := here[order][1:][np.diff(here[order]) == 0]):
            raise SubmissionError(where, f"drive {number} has object {doubled[0]} twice", "leave one of the two out")
        if ids is not None and not np.array_equal(here[order], ids):
            odd = sorted(set(here.tolist()) ^ set(ids.tolist()))
            fix = "simulate every object that is valid at step 10 in every drive"
            raise SubmissionError(where, f"drive {number} has other objects than drive 0: {_some(odd)}", fix)
        ids = here[order]
        states.append(_states(where, number, [joint.simulated_trajectories[k] for k in order]))
    return Rollouts(message.scenario_id, file, np.zeros(0, np.int64) if ids is None else ids, np.stack(states))


def _states(where: str, number: int, trajectories: Sequence[Any]) -> NDArray[np.float32]:
    """[A, 80, 4] of one drive."""
    for trajectory in trajectories:
        counts = {len(getattr(trajectory, name)) for name in _FIELDS}
        if counts != {STEPS}:
            what = f"drive {number} has {max(counts - {STEPS})} steps of object {trajectory.object_id}"
            raise SubmissionError(where, what, f"the challenge asks for {STEPS} of x, y, z and heading")
    state = np.array([[getattr(t, name) for name in _FIELDS] for t in trajectories], np.float32)
    if not np.isfinite(state).all():
        odd = trajectories[int((~np.isfinite(state)).any(axis=(1, 2)).argmax())].object_id
        what = f"drive {number} has a number of object {odd} that is not finite"
        raise SubmissionError(where, what, "simulate it again")
    far = (np.abs(state[:, :3]) > FARTHEST).any(axis=(1, 2))
    if far.any():
        what = f"drive {number} has object {trajectories[int(far.argmax())].object_id} more than {FARTHEST:g} m away"
        raise SubmissionError(where, what, "simulate it again, in the frame of the scene's file")
    return state.transpose(0, 2, 1)


def _some(numbers: Sequence[int]) -> str:
    """The first of some ids, and how many more there are."""
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return ", ".join(map(str, numbers[:5])) + more
