"""Short runs as tests make and compare them."""

import json

import torch

from gail_cli.gail.learning.run import CHECKPOINT
from gail_cli.gail.learning.trainer import Trainer


def after(count):
    """Says stop when asked for more than ``count`` steps."""
    asked = iter(range(count))
    return lambda: next(asked, None) is None


def trained(config, store, folder, stop=lambda: False, resume=False):
    trainer = Trainer(config, store.path, folder, resume)
    trainer.run(stop)
    return trainer


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def checkpoint(folder):
    return torch.load(folder / CHECKPOINT, weights_only=True)


def assert_equal(a, b):
    """Nested dictionaries of numbers and tensors are equal, but for the time that things took."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, dict):
            assert_equal(value, b[name])
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, b[name]), name
        else:
            assert name == "seconds" or value == b[name], name
