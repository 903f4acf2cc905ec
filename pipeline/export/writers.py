"""One writer per format: it takes scenes one after the other, and holds no more than one portion of them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import zarr
from gymnasium.spaces import Box
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from gail_cli.pipeline.export.gpudrive_cache import gpudrive_scenario
from gail_cli.pipeline.export.rows import FORMAT, SPLITS, STATE_FIELDS, DemoEpisode, SceneDemos
from gail_cli.pipeline.readers import gpudrive_json
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.errors import UserError
from gail_cli.sim.gymnasium import action_space

HDF5_ROWS = 32
"""Rows of a chunk of observations in HDF5."""
ZARR_CHUNK, ZARR_SHARD = 256, 4096
"""Rows of a chunk and of a shard of observations in Zarr."""
MINARI_ROWS = 4096
"""Rows that are handed over to Minari at a time, or one more demo's."""

_ID_BYTES = 64
_ZSTD_LEVEL = 3
_HDF5_SPLITS = dict(zip(SPLITS, ("train", "valid", "test"), strict=True))
"""Robomimic's names of filter keys."""
_DATASET_ID = re.compile(r"[-_\w]+-v\d+", re.ASCII)


class ExportError(UserError):
    """Something that cannot be exported, or an export that cannot be written."""


class Writer(Protocol):
    """Writes one export to a path where nothing is yet."""

    def __init__(self, path: Path, name: str, space: ActionSpace, about: Mapping[str, Any]) -> None:
        """Begin.

        Args:
            path: file or folder to make.
            name: file name that it will have in the end.
            space: of the actions.
            about: what the numbers mean, ready for JSON.

        Raises:
            ExportError: when this cannot be written in this format.
        """

    def add(self, demos: SceneDemos) -> None:
        """Write one scene.

        Raises:
            SceneError: when the format cannot hold it; nothing of it is written.
        """

    def close(self) -> None:
        """Write what is left."""

    @staticmethod
    def made(path: Path) -> bool:
        """Whether what lies there is an export in this format, which another one may replace."""


class Hdf5Writer:
    """Robomimic's layout, one file."""

    def __init__(self, path: Path, name: str, space: ActionSpace, about: Mapping[str, Any]) -> None:
        self._space = space
        self._file = h5py.File(path, "w")
        self._data = self._file.create_group("data")
        env = {"env_name": "gail-cli", "type": 2, "env_kwargs": {"action": about["action"], "sim": about["sim"]}}
        self._data.attrs["env_args"] = json.dumps(env)
        self._data.attrs["about"] = json.dumps(about)
        self._names: dict[str, list[str]] = defaultdict(list)
        self._total = 0

    def add(self, demos: SceneDemos) -> None:
        """See :class:`Writer`."""
        for episode in demos.episodes:
            name = f"demo_{sum(map(len, self._names.values()))}"
            self._add(self._data.create_group(name), episode)
            self._names[_HDF5_SPLITS[episode.split]].append(name)
            self._total += episode.num_actions

    def _add(self, group: Any, episode: DemoEpisode) -> None:
        count, seen = episode.num_actions, episode.observe()
        group.attrs.update(
            num_samples=count,
            scene=episode.scene.id,
            scene_index=episode.scene_index,
            split=episode.split,
            origin=episode.scene.origin,
            agent_id=episode.agent_id,
            agent_type=episode.agent_type,
            agent_size=episode.agent_size,
            first_step=episode.first_step,
        )
        for name, rows in (("obs", seen[:-1]), ("next_obs", seen[1:])):
            chunk = (min(HDF5_ROWS, count), rows.shape[1])
            zipped = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "chunks": chunk}
            group.create_dataset(f"{name}/observation", data=rows, fletcher32=True, **zipped)
        names = [part.split(" ")[0] for part in STATE_FIELDS]
        for name, values in (("states", episode.state[:-1]), ("next_states", episode.state[1:])):
            states = group.create_dataset(name, data=values, fletcher32=True)
            states.attrs["fields"] = names
            states.attrs["units"] = ["m", "m", "rad", "m/s", "m/s"]
        actions = group.create_dataset("actions", data=episode.action, fletcher32=True)
        actions.attrs["fields"] = list(self._space.dynamics.action_names)
        if self._space.discrete:
            group.create_dataset("action_indices", data=episode.stored_action)
        group.create_dataset("marks", data=episode.mark[:-1])
        group.create_dataset("rewards", data=np.zeros(count, np.float32))
        group.create_dataset("dones", data=_at_the_end(count).astype(np.int64))

    def close(self) -> None:
        """See :class:`Writer`."""
        self._data.attrs["total"] = self._total
        for split, names in self._names.items():
            self._file.create_dataset(f"mask/{split}", data=np.array(names, dtype="S"))
        self._file.close()

    @staticmethod
    def made(path: Path) -> bool:
        """See :class:`Writer`."""
        return bool(h5py.is_hdf5(path))


class ZarrWriter:
    """Rows in a Zarr v3 group, written only in whole shards."""

    def __init__(self, path: Path, name: str, space: ActionSpace, about: Mapping[str, Any]) -> None:
        self._group = zarr.open_group(path, mode="w", zarr_format=3)
        self._about = dict(about)
        width = {"observation": about["observation"]["size"], "state": len(STATE_FIELDS), "action": space.components}
        dtypes = {"observation": "f4", "state": "f4", "action": "f4", "next": "i8", "demo": "i4", "scene": "i4",
                  "agent": "i8", "step": "i2", "mark": "u1"}  # fmt: skip
        if space.discrete:
            dtypes["action_index"], width["action_index"] = "i2", space.components
        self._buffer = {
            key: np.zeros((ZARR_SHARD, *((width[key],) if key in width else ())), dtype)
            for key, dtype in dtypes.items()
        }
        self._tables: dict[str, list[Any]] = defaultdict(list)
        self._rows = 0
        """Filled in, those in the buffer included."""
        for key, rows in self._buffer.items():
            self._create(key, (0, *rows.shape[1:]), rows.dtype, sharded=key == "observation")

    def _create(self, key: str, shape: tuple[int, ...], dtype: np.dtype[Any], sharded: bool = False) -> zarr.Array[Any]:
        return self._group.create_array(
            key,
            shape=shape,
            chunks=(ZARR_CHUNK if sharded else ZARR_SHARD, *shape[1:]),
            shards=(ZARR_SHARD, *shape[1:]) if sharded else None,
            dtype=dtype,
            compressors=[ZstdCodec(level=_ZSTD_LEVEL), Crc32cCodec()],
            config={"write_empty_chunks": True},
        )

    def add(self, demos: SceneDemos) -> None:
        """See :class:`Writer`."""
        if not demos.episodes:
            return
        scene, tables = demos.scene, self._tables
        tables["scenes/id"].append(np.frombuffer(scene.id.encode()[:_ID_BYTES].ljust(_ID_BYTES, b"\0"), np.uint8))
        tables["scenes/index"].append(demos.index)
        tables["scenes/split"].append(np.int8(SPLITS.index(demos.split)))
        tables["scenes/origin"].append(scene.origin)
        for episode in demos.episodes:
            self._add(episode, len(tables["scenes/id"]) - 1, len(tables["demos/start"]))

    def _add(self, episode: DemoEpisode, scene: int, demo: int) -> None:
        tables, count = self._tables, episode.num_actions
        tables["demos/start"].append(self._rows)
        tables["demos/scene"].append(np.int32(scene))
        tables["demos/agent"].append(episode.agent_id)
        tables["demos/type"].append(episode.scene.agent_type[episode.agent])
        tables["demos/size"].append(episode.agent_size)
        rows: dict[str, NDArray[Any]] = {
            "observation": episode.observe(),
            "state": episode.state,
            "mark": episode.mark,
            "action": _with_none(episode.action),
            "action_index": _with_none(episode.stored_action),
            "next": np.append(self._rows + 1 + np.arange(count), -1),
            "step": episode.first_step + np.arange(count + 1),
            "scene": np.full(count + 1, scene),
            "agent": np.full(count + 1, episode.agent_id),
            "demo": np.full(count + 1, demo),
        }
        done = 0
        while done <= count:
            place = self._rows % ZARR_SHARD
            portion = min(count + 1 - done, ZARR_SHARD - place)
            for key, buffer in self._buffer.items():
                buffer[place : place + portion] = rows[key][done : done + portion]
            self._rows += portion
            done += portion
            if self._rows % ZARR_SHARD == 0:
                self._flush(ZARR_SHARD)

    def _flush(self, count: int) -> None:
        """Write the buffer's first rows, which end where the rows so far end."""
        for key, buffer in self._buffer.items():
            array = self._group[key]
            assert isinstance(array, zarr.Array)
            array.resize((self._rows, *buffer.shape[1:]))
            array[self._rows - count :] = buffer[:count]

    def close(self) -> None:
        """See :class:`Writer`."""
        if self._rows % ZARR_SHARD:
            self._flush(self._rows % ZARR_SHARD)
        for key, values in self._tables.items():
            table = np.array(values)
            self._create(key, table.shape, table.dtype)[...] = table
        demos, rows = len(self._tables["demos/start"]), self._rows
        self._group.attrs.update({**self._about, "rows": rows, "demos": demos, "transitions": rows - demos})

    @staticmethod
    def made(path: Path) -> bool:
        """See :class:`Writer`."""
        try:
            return bool(json.loads((path / "zarr.json").read_bytes())["attributes"]["format"] == FORMAT)
        except (OSError, ValueError, LookupError, TypeError):
            return False


class MinariWriter:
    """A Minari data set: the folder's name is its id, the folder it lies in Minari's root."""

    def __init__(self, path: Path, name: str, space: ActionSpace, about: Mapping[str, Any]) -> None:
        if not _DATASET_ID.fullmatch(name):
            what = "a Minari data set is named like waymo-expert-v0 (letters, digits, - and _, then -v and a number)"
            raise ExportError(name, what, "choose such a name")
        try:
            import minari
            from minari.dataset.minari_storage import MinariStorage
        except ImportError as error:
            what, fix = f"the package Minari is missing ({error})", "install it with `pip install 'gail-cli[minari]'`"
            raise ExportError("", what, fix) from error
        path.mkdir()
        self._space = space
        observation = Box(-np.inf, np.inf, (about["observation"]["size"],), np.float32)
        self._storage = MinariStorage.new(path / "data", observation, action_space(space))
        about_actions = "replayed human driving; actions are found in closed loop so that they stay on the log"
        self._storage.update_metadata({
            "dataset_id": name,
            "minari_version": minari.__version__,
            "algorithm_name": "logged drivers",
            "description": about_actions,
            "gail_cli": dict(about),
        })  # fmt: skip
        self._waiting: list[Any] = []
        self._metadata: list[dict[str, Any]] = []
        self._rows = 0

    def add(self, demos: SceneDemos) -> None:
        """See :class:`Writer`."""
        from minari.data_collector import EpisodeBuffer

        for episode in demos.episodes:
            count, discrete = episode.num_actions, self._space.discrete
            infos = {"states": episode.state, "marks": episode.mark}
            if discrete:
                infos["action_values"] = _with_none(episode.action)
            self._waiting.append(EpisodeBuffer(
                observations=episode.observe(),
                actions=episode.stored_action.astype(np.int64 if discrete else np.float32),
                rewards=np.zeros(count, np.float32),
                terminations=np.zeros(count, np.bool_),
                truncations=_at_the_end(count),
                infos=infos,
            ))  # fmt: skip
            self._metadata.append({
                "scene": episode.scene.id,
                "scene_index": episode.scene_index,
                "split": episode.split,
                "origin": episode.scene.origin,
                "agent_id": episode.agent_id,
                "agent_type": episode.agent_type,
                "agent_size": episode.agent_size,
                "first_step": episode.first_step,
            })  # fmt: skip
            self._rows += count + 1
            if self._rows >= MINARI_ROWS:
                self._flush()

    def _flush(self) -> None:
        first = self._storage.total_episodes
        self._storage.update_episodes(self._waiting)
        self._storage.update_episode_metadata(self._metadata, range(first, first + len(self._waiting)))
        self._waiting, self._metadata, self._rows = [], [], 0

    def close(self) -> None:
        """See :class:`Writer`."""
        if self._waiting:
            self._flush()

    @staticmethod
    def made(path: Path) -> bool:
        """See :class:`Writer`."""
        return (path / "data" / "metadata.json").is_file()


class GpudriveWriter:
    """A folder of GPUDrive's scene files, with each demo beside its object's log."""

    _ABOUT = "export.yaml"
    """Holds what the numbers mean; not .json, lest a reader of scenes take it for one. (JSON is YAML.)"""

    def __init__(self, path: Path, name: str, space: ActionSpace, about: Mapping[str, Any]) -> None:
        path.mkdir()
        self._path, self._space, self._about = path, space, about

    def add(self, demos: SceneDemos) -> None:
        """See :class:`Writer`."""
        if not demos.episodes:
            return
        data = gpudrive_json.scenario_to_json(gpudrive_scenario(demos.scene, demos.chosen))
        data["gail_cli"] = {
            "scene": demos.scene.id,
            "scene_index": demos.index,
            "split": demos.split,
            "origin": demos.scene.origin.tolist(),
        }
        for item, row in zip(data["objects"], demos.chosen.row.tolist(), strict=True):
            item["log_id"] = int(demos.scene.agent_id[row])
        place = {row: k for k, row in enumerate(demos.chosen.row.tolist())}
        for episode in demos.episodes:
            data["objects"][place[episode.agent]]["demo"] = {
                "first_step": episode.first_step,
                "states": episode.state.tolist(),
                "marks": episode.mark.tolist(),
                "actions": episode.action.tolist(),
                **({"action_indices": episode.stored_action.tolist()} if self._space.discrete else {}),
            }
        safe = re.sub(r"[^-\w.]", "_", demos.scene.id, flags=re.ASCII)[:_ID_BYTES]
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
        (self._path / f"tfrecord-{demos.index:06d}-{safe}.json").write_text(text)

    def close(self) -> None:
        """See :class:`Writer`."""
        (self._path / self._ABOUT).write_text(json.dumps(self._about, indent=1) + "\n")

    @staticmethod
    def made(path: Path) -> bool:
        """See :class:`Writer`."""
        return (path / GpudriveWriter._ABOUT).is_file()


def _at_the_end(count: int) -> NDArray[np.bool_]:
    """[T] true at the last one."""
    return np.asarray(np.arange(count) == count - 1)


def _with_none(action: NDArray[Any]) -> NDArray[Any]:
    """[T + 1, K] actions [T, K], and zeros for the last state, from which none is taken."""
    return np.concatenate([action, np.zeros((1, action.shape[1]), action.dtype)])
