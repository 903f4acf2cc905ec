import gc
import os
import sys
from pathlib import Path

import gpudrive_standin as standin
import pytest
import torch
from demos import rules_of
from processes import processes  # noqa: F401
from s3 import s3, s3_server  # noqa: F401

from gail_cli.gail.config.load import config_from_dict
from gail_cli.gail.config.schema import DataConfig
from gail_cli.gail.demos.sampler import DemoSampler
from gail_cli.gail.learning import trainer
from gail_cli.pipeline.extract.build import ExtractConfig
from gail_cli.pipeline.extract.extract import ExtractOptions, extract
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.gpudrive import MODULE

# Networks of this size gain nothing from threads, which wait for each other by spinning: most of a suite's time.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

SAMPLE = Path(__file__).parents[1] / "data" / "sample"
SMALL = {
    "device": "cpu",
    "worlds": {"num_worlds": 2},
    "sim": {"horizon": 20},
    "observation": {"partners": 4, "road_segments": 8},
    "augment": {"variants": 1},
    "masking": {"roads": 0, "all_roads": 0, "partners": 0, "all_partners": 0},
    "policy": {"entity_hidden": 8, "hidden": 16, "dropout": 0},
    "bc": {"steps": 4, "batch_size": 32},
    "ppo": {"update_epochs": 1, "minibatch_size": 512, "warmup_iterations": 1, "bc_batch_size": 16},
    "discriminator": {"network": {"entity_hidden": 8, "hidden": 16}, "batch_size": 64, "updates": 3},
}


def pytest_collection_finish():
    """What all tests import stays for good: the garbage collector need not look through it again and again."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def few_samples_for_normalisers():
    """Runs of seconds need no 8192 demos to begin with, which turn a whole pool over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_NORMALISER_SAMPLES", 256)
        yield


@pytest.fixture(scope="session")
def make_store(tmp_path_factory):
    """Makes a store of a few sample scenes, two a part; the same one for the same arguments."""
    made = {}

    def make(dynamics="classic", actions="discrete", scenes=5, reverse=True):
        key = dynamics, actions, scenes, reverse
        if key not in made:
            path = tmp_path_factory.mktemp("stores") / "-".join(map(str, key))
            config = ExtractConfig(ActionSpace.create(dynamics, actions, reverse=reverse), scenes_per_part=2)
            extract([str(SAMPLE)], str(path), config, options=ExtractOptions(workers=1), limit=scenes)
            made[key] = DemoStore(path)
        return made[key]

    return make


@pytest.fixture
def sampler(make_store):
    """Makes samplers of the store of five scenes, in blocks of one or two."""
    made = []

    def make(store=None, seed=0, drawn=0, shard=(0, 1), scene_weights=None, **data):
        options = {"seed": seed, "drawn": drawn, "shard": shard, "scene_weights": scene_weights}
        made.append(DemoSampler(store or make_store(), rules_of(data=DataConfig(**data)), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def gpudrive(monkeypatch):
    """Puts a stand-in where GPUDrive's module is imported from."""

    def install(recordings=None, **options):
        module = standin.module(recordings, **options)
        monkeypatch.setitem(sys.modules, MODULE, module)
        return module

    return install


@pytest.fixture(scope="session")
def small():
    """Makes the configuration of a run of seconds, with some settings changed."""

    def make(**changes):
        sections = {
            name: {**SMALL.get(name, {}), **value} if isinstance(value, dict) else value
            for name, value in changes.items()
        }
        return config_from_dict(SMALL | sections)

    return make
