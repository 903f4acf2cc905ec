from dataclasses import fields
from itertools import islice

import torch
from demos import drawn, rules_of
from torch.utils.data import DataLoader

from gail_cli.gail.config.schema import DataConfig
from gail_cli.gail.demos.dataset import DemoDataset, current_rank
from gail_cli.gail.demos.sampler import DemoSampler

TWO_SCENES = rules_of(data=DataConfig(rows_per_scene=40, pool_scenes=2))


def dataset(store, **options):
    return DemoDataset(store, TWO_SCENES, 16, **options)


def equal(some, others):
    """Whether batches in dictionaries are equal."""
    return all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(some, others, strict=True)
    )


def loaded(data, batches, workers=0, **options):
    loader = DataLoader(data, batch_size=None, num_workers=workers, **options)
    batch = iter(loader)
    return [{name: x.clone() for name, x in next(batch).items()} for _ in range(batches)]


def test_a_data_set_is_the_sampler(make_store, sampler):
    batches = loaded(dataset(make_store(), seed=2), 6)
    expected = drawn(sampler(seed=2, rows_per_scene=40, pool_scenes=2), 6, 16)
    assert equal(batches, as_dicts(expected))
    more = loaded(dataset(make_store(), next_state=True, history=2), 1)[0]
    assert more.keys() == {f.name for f in fields(expected[0])} - {"absorbing", "log_prob"}


def shares(store, seed, workers, ranks=1, rank=0):
    """The batches that each worker of a rank should make."""
    for worker in range(workers):
        shard = rank * workers + worker, ranks * workers
        source = DemoSampler(store, TWO_SCENES, seed=seed, shard=shard)
        yield drawn(source, 4, 16)
        source.close()


def as_dicts(samples):
    return [{name: x for name, x in vars(s).items() if x is not None} for s in samples]


def test_workers_draw_from_shares_of_their_own_and_go_on_where_they_were(make_store):
    store, options = make_store(), {"workers": 2, "multiprocessing_context": "fork"}
    batches = loaded(dataset(store, seed=1), 5, **options)
    first, second = shares(store, 1, 2)
    expected = as_dicts(s for pair in zip(first, second, strict=True) for s in pair)
    assert equal(batches, expected[:5])
    assert equal(loaded(dataset(store, seed=1, start=3), 2, **options), expected[3:5])


def test_workers_may_be_fresh_processes(make_store, processes):
    batches = loaded(dataset(make_store(), seed=1), 2, workers=1, multiprocessing_context=processes)
    assert equal(batches, as_dicts(next(shares(make_store(), 1, 1))[:2]))


def test_ranks_draw_from_shares_of_their_own(make_store, monkeypatch):
    store = make_store()
    scenes = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert current_rank() == (rank, 2)
        batches = islice(dataset(store), 12)
        scenes.append({int(t[0]) for batch in batches for t in batch["transition"]})
    assert not scenes[0] & scenes[1]
    assert scenes[0] | scenes[1] == set(range(5))
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert current_rank() == (0, 1)
    assert dataset(store, rank=(3, 4)).rank == (3, 4)
