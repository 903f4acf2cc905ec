"""Whether a policy looks, from what it loses when something is hidden from it."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from toys import CONFIG, LAYOUT, Toy, ToyStore, blocked, free

from gail_cli.gail.evaluation.blind import BLIND, blind_section
from gail_cli.gail.evaluation.evaluate import evaluate, pooled
from gail_cli.gail.evaluation.summary import SceneScores
from gail_cli.gail.evaluation.tables import WIDTH, print_evaluation
from gail_cli.gail.networks.masking import hidden


@pytest.fixture(scope="module")
def store():
    """Two scenes of three need eyes."""
    return ToyStore(blocked("a"), blocked("b"), free("c"))


@pytest.fixture(scope="module")
def looking(store):
    return evaluate(Toy(looks=True), CONFIG, store, rollouts=1, blind=True)


def test_who_looks_at_others_does_worse_without_them(looking):
    """It stops before the parked cars, at its goal; blind it touches them: two of three scenes, no more, no less."""
    section = looking["blind"]
    for name in ("safe_success", "drawn_safe_success", "full_safe_success", "drawn_full_safe_success"):
        assert [section["results"][who][name] for who in ("policy", *BLIND)] == pytest.approx([1, 1 / 3, 1, 1 / 3])
        assert section["differences"]["without others"][name]["mean"] == pytest.approx(2 / 3)
        assert section["differences"]["without roads"][name] == {"mean": 0.0, "interval": [0.0, 0.0]}
    assert [section["results"][who]["collision"] for who in ("policy", *BLIND)] == pytest.approx([0, 2 / 3, 0, 2 / 3])
    assert {section["results"][who]["off_road"] for who in ("policy", *BLIND)} == {0.0}


def test_who_does_not_look_does_the_same_blind(store):
    section = evaluate(Toy(looks=False), CONFIG, store, rollouts=1, blind=True)["blind"]
    for differences in section["differences"].values():
        for name, found in differences.items():
            assert found == {"mean": 0.0, "interval": [0.0, 0.0]}, name
    assert not any(verdict["looks"] for verdict in section["verdict"].values())
    assert section["sentence"] == (
        "That it looks at other agents is not shown: without them in sight it loses 0.0 points of safe success (0.0 to "
        "0.0); that it looks at roads is not shown: without them in sight it loses 0.0 points of safe success (0.0 to "
        "0.0)."
    )


def section_of(blind, seeing=(1.0, 1.0, 1.0)):
    """The section of three scenes of one agent each, in which safe success without others in sight is this."""
    pairs = {
        who: {
            name: np.stack([np.asarray(values), np.ones(3)], axis=1)
            for name in ("drawn_safe_success", "safe_success")
        }
        for who, values in (("policy", seeing), ("without others", blind), ("without roads", seeing),
                            ("without either", blind))
    }  # fmt: skip
    return pairs


@pytest.mark.parametrize(
    ("blind", "looks", "words"),
    [
        # an interval of [0.4, 0.4], of [0, 0.4] (1 of 27 resamples has the third scene only), and of [-0.4, 0]
        ((0.6, 0.6, 0.6), True, "It looks at other agents: without them in sight it loses 40.0 points"),
        ((0.6, 0.6, 1.0), False, "That it looks at other agents is not shown: without them in sight it loses 26.7"),
        ((1.4, 1.4, 1.0), False, "That it looks at other agents is not shown: without them in sight it gains 26.7"),
    ],
)
def test_the_verdict_is_that_of_the_interval(monkeypatch, blind, looks, words):
    monkeypatch.setattr("gail_cli.gail.evaluation.blind.METRICS", ("drawn_safe_success", "safe_success"))
    section = blind_section(SceneScores(["a", "b", "c"], section_of(blind), {}), seed=0)
    assert section["verdict"]["other agents"]["looks"] is looks
    assert section["verdict"]["roads"]["looks"] is False
    assert section["sentence"].startswith(words)


def test_blind_drivers_are_no_anchors(looking, store):
    """All else in the report is what it is without the section."""
    plain = evaluate(Toy(looks=True), CONFIG, store, rollouts=1)
    assert {name: value for name, value in looking.items() if name != "blind"} == plain
    assert json.loads(json.dumps(looking)) == looking


def test_several_evaluations_are_one(looking, store):
    folds = [evaluate(Toy(looks=True), CONFIG, store, scenes=s, rollouts=1, blind=True) for s in ([0], [1, 2])]
    together = pooled(folds)["blind"]
    assert (together["verdict"], together["sentence"]) == (looking["blind"]["verdict"], looking["blind"]["sentence"])
    for who, means in together["results"].items():
        assert means == pytest.approx(looking["blind"]["results"][who], rel=1e-6), who
    assert "blind" not in pooled([folds[0], evaluate(Toy(looks=True), CONFIG, store, scenes=[1, 2], rollouts=1)])


def test_the_tables_show_it(looking):
    screen = Console(width=WIDTH, file=io.StringIO())
    print_evaluation(looking, console=screen)
    text = screen.file.getvalue()
    assert max(map(len, text.splitlines()[:-1])) <= WIDTH
    means, losses = [
        line.replace("*", " ").split() for line in text.splitlines() if line.strip().startswith("without others")
    ]
    assert means[2::2] == ["66.7", "0.0", "33.3", "33.3", "33.3", "33.3"]
    assert losses[2::2] == ["-66.7", "+0.0", "+66.7", "+66.7", "+66.7", "+66.7"]
    assert looking["blind"]["sentence"] in text


def test_what_is_hidden_is_not_there():
    torch.manual_seed(0)
    seen = 0.1 + torch.rand(6, LAYOUT.size)
    LAYOUT.split(seen)[2][..., -7:] = torch.eye(7)[1]
    for partners, roads in BLIND.values():
        found = hidden(seen, LAYOUT, partners, roads)
        here = LAYOUT.present(*LAYOUT.split(found)[1:])
        assert [bool(x.any()) for x in here[:2]] == [not partners, not roads]
        assert torch.equal(LAYOUT.split(found)[0], LAYOUT.split(seen)[0])
