"""A policy and its anchors, evaluated, told of in tables, and drawn."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from gail_cli.gail.evaluation import submitted
from gail_cli.gail.evaluation.drivers import CLONED_DRIVER, drive, drivers, make_env
from gail_cli.gail.evaluation.evaluate import evaluate, pooled, splits_of
from gail_cli.gail.evaluation.scene_scores import drive_features, log_features
from gail_cli.gail.evaluation.scoring import score_submission
from gail_cli.gail.evaluation.submission import submission
from gail_cli.gail.evaluation.tables import WIDTH, beside_clone, print_challenge, print_evaluation
from gail_cli.gail.evaluation.wosac import evaluate_challenge
from gail_cli.gail.figures.evaluation_figure import evaluation_figure
from gail_cli.gail.learning.run import RunError
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.experts.replay import NoAgentsError
from gail_cli.sim.actions import ActionSpace

FIRST = ["goal", "collision", "off_road", "safe_success", "ade", "fde"]
"""The first metrics of a report."""
SHOWN = [*FIRST[:4], "drawn_safe_success", "ade"]
"""Those of the first table."""


@pytest.fixture(scope="module")
def config(small):
    return small(sim={"horizon": None})


def policy_for(config, store, seed=0):
    torch.manual_seed(seed)
    policy = Policy(config.observation, store.space, config.policy)
    torch.nn.init.normal_(policy.actor.head.weight)
    return policy


@pytest.fixture(scope="module")
def evaluated(config, make_store):
    store = make_store(scenes=3)
    policy, clone = policy_for(config, store), policy_for(config, store, seed=1)
    return policy, clone, store, evaluate(policy, config, store, cloned=clone, rollouts=2)


def test_what_is_told(evaluated):
    *_, result = evaluated
    assert (result["scenes"], result["rollouts"], result["deterministic"]) == (3, 2, True)
    names = ["policy", CLONED_DRIVER, "expert replayed", "constant velocity", "random"]
    assert list(result["results"]) == list(result["intervals"]) == names
    assert list(result["differences"]) == names[1:]
    for means in result["results"].values():
        assert list(means)[:6] == FIRST
        assert {"min_ade", "drawn_goal", "infeasible", "realism_2025", "likelihood_collision"} <= means.keys()
        assert means["min_ade"] <= means["drawn_ade"] + 1e-6
        assert all(0 <= means[name] <= 1 for name in means if name.startswith(("realism", "likelihood", "infeas")))
    for driver, intervals in result["intervals"].items():
        for name, sure in intervals.items():
            assert (sure is None) == name.endswith("red_light"), (driver, name)  # these scenes have no lights
            assert sure is None or sure[0] <= sure[1], (driver, name)
    assert json.loads(json.dumps(result)) == result


def test_people_are_more_realistic_than_constant_velocity_and_that_than_chance(evaluated):
    *_, result = evaluated
    realism = {driver: means["realism_2025"] for driver, means in result["results"].items()}
    assert realism["expert replayed"] > realism["constant velocity"] > realism["random"]
    distances = {driver: means["distance_linear_speed"] for driver, means in result["results"].items()}
    assert distances["expert replayed"] < 0.1 < distances["constant velocity"]
    assert result["results"]["expert replayed"]["infeasible"] < 0.01 < result["results"]["random"]["infeasible"]


def test_drives_depend_on_the_seed_alone(evaluated, config):
    policy, _, store, result = evaluated
    alone = evaluate(policy, config, store, anchors=False, rollouts=2)
    assert alone["results"] == {"policy": result["results"]["policy"]}
    assert alone["per_scene"]["sums"]["policy"] == result["per_scene"]["sums"]["policy"]
    other = evaluate(policy, config, store, anchors=False, rollouts=2, seed=1)["results"]["policy"]
    assert other["ade"] == alone["results"]["policy"]["ade"]
    assert other["drawn_ade"] != alone["results"]["policy"]["drawn_ade"]


def test_the_clone_is_driven_as_the_policy_is(evaluated, config):
    policy, clone, store, result = evaluated
    swapped = evaluate(clone, config, store, cloned=policy, rollouts=2)["results"]
    assert swapped[CLONED_DRIVER] == result["results"]["policy"]
    assert swapped["policy"] == result["results"][CLONED_DRIVER]


def test_sampled_metrics_are_those_of_the_first_drawn_drive(evaluated, config):
    policy, _, store, _ = evaluated
    means = evaluate(policy, config, store, anchors=False, rollouts=1, deterministic=False)["results"]["policy"]
    for name in FIRST:
        assert means[name] == pytest.approx(means[f"drawn_{name}"], rel=1e-6)
    assert means["min_ade"] == pytest.approx(means["ade"], rel=1e-6)


def test_one_evaluation_of_several(evaluated, config):
    """Scenes apart, and together: the same but for drawn actions, which anchors without a policy have none of."""
    policy, _, store, whole = evaluated
    folds = [evaluate(policy, config, store, scenes=scenes, rollouts=2) for scenes in ([0], [1, 2])]
    together = pooled(folds)
    assert (together["scenes"], together["agents"]) == (whole["scenes"], whole["agents"])
    assert together["per_scene"]["scenes"] == whole["per_scene"]["scenes"]
    for driver in ("expert replayed", "constant velocity"):
        for name in FIRST:
            assert together["results"][driver][name] == pytest.approx(whole["results"][driver][name])
            assert together["intervals"][driver][name] == pytest.approx(whole["intervals"][driver][name])
    assert CLONED_DRIVER not in together["results"]


def test_features_of_replayed_logs_are_those_of_the_log(config, make_store):
    """Actions that are the next states: what is driven is the log, where it has no gaps."""
    store = make_store("state", "continuous", scenes=2)
    env, experts = make_env(list(store.read()), config, store.space, torch.device("cpu"))
    result = drive(env, drivers(None, experts, True, torch.Generator())["expert replayed"])
    found, log = drive_features(result, env.worlds), log_features(env.worlds, env.worlds.num_steps)
    for name, values in log.items():
        if name in ("time_to_collision", "distance_to_nearest_object", "valid"):
            continue  # drives bridge gaps of the log
        known = ~values.isnan()
        assert known.any(), name
        finite = values[known].isfinite()
        torch.testing.assert_close(found[name][known][finite], values[known][finite], rtol=1e-3, atol=2e-2)


def test_policies_that_do_not_fit_are_refused(evaluated, config):
    policy, _, store, _ = evaluated
    blind = Policy(replace(config.observation, partners=3), store.space, config.policy)
    with pytest.raises(RunError, match="the cloned policy sees something else"):
        evaluate(policy, config, store, cloned=blind)
    other = Policy(config.observation, ActionSpace.create("bicycle", "continuous"), config.policy)
    with pytest.raises(RunError, match="the cloned policy's actions are not those of the run"):
        evaluate(policy, config, store, cloned=other)


def test_splits(make_store):
    store = make_store()
    assert splits_of(store) == {"all": [0, 1, 2, 3, 4]}
    assert splits_of(store, ["train"]) == {"train": [0, 1, 2, 3, 4]}
    with pytest.raises(NoAgentsError, match="no scene is in the split 'test'"):
        splits_of(store, ["test"])


# Tables and pictures


def printed(result, name=""):
    screen = Console(width=WIDTH, file=io.StringIO())
    print_evaluation(result, name, screen)
    return screen.file.getvalue()


def test_tables_are_readable_and_whole(evaluated):
    *_, result = evaluated
    text = printed(result, "held-out")
    assert "…" not in text
    assert "red light" not in text
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert "agents in 3 held-out scenes" in text
    (row, *_) = [line for line in text.splitlines() if line.strip().startswith("constant velocity")]
    means, sure = result["results"]["constant velocity"], result["intervals"]["constant velocity"]
    cells = row.replace("*", " ").split()[2:]
    assert cells[0::2] == [
        *(f"{100 * means[name]:.1f}" for name in SHOWN[:5]),
        f"{means['ade']:.2f}",
    ]
    half = [(sure[name][1] - sure[name][0]) / 2 for name in SHOWN]
    assert cells[1::2] == [*(f"±{100 * x:.1f}" for x in half[:5]), f"±{half[5]:.1f}"]


def test_a_table_of_red_lights_where_there_are_lights(evaluated):
    *_, result = evaluated
    known = {
        part: {driver: {**values, "red_light": value} for driver, values in result[part].items()}
        for part, value in (("results", 0.125), ("intervals", [0.1, 0.2]))
    }
    rows = printed({**result, **known}).split("vehicles where lights are, %")[1].splitlines()
    assert sum(line.split()[-2:] == ["12.5", "±5.0"] for line in rows) == 5


def test_what_differs_is_marked(evaluated):
    *_, result = evaluated
    differences = {"random": {name: {"mean": 1.0, "interval": [-1, 1]} for name in result["results"]["random"]}}
    plain = {**result, "differences": differences}
    plain["results"] = {name: result["results"][name] for name in ("policy", "random")}
    assert printed(plain).count("*") == 1  # the legend
    for low, high in ((0.1, 0.2), (-0.2, -0.1)):
        differences["random"]["ade"]["interval"] = [low, high]
        assert printed(plain).count("*") == 2


@pytest.mark.parametrize(
    ("safe", "realism", "said"),
    [
        ((0.027, [0.011, 0.043]), (0.002, [-0.001, 0.0062]),
         "safe success +2.7 points (+1.1 to +4.3): better; realism +0.002 (-0.001 to +0.006): no difference is shown."),
        ((-0.02, None), (-0.01, [-0.02, -0.001]),
         "safe success -2.0 points: no difference is shown; realism -0.010 (-0.020 to -0.001): worse."),
        ((None, None), (0.01, [0.005, 0.02]), "realism +0.010 (+0.005 to +0.020): better."),
        ((0.0, [0.0, 0.0]), (0.0, [0.0, 0.0]), ""),
    ],
)  # fmt: skip
def test_what_was_learned_since_cloning_is_said(safe, realism, said):
    names = zip(("drawn_safe_success", "realism_2025"), (safe, realism), strict=True)
    found = {name: dict(zip(("mean", "interval"), each, strict=True)) for name, each in names}
    begin = "Beside its own clone, in the same scenes with drawn actions: " if said else ""
    assert beside_clone({"differences": {"behaviour cloning": found}}) == begin + said
    assert beside_clone({"differences": {"random": found}}) == ""


def test_one_driver_in_one_scene(evaluated, config):
    policy, _, store, _ = evaluated
    text = printed(evaluate(policy, config, store, anchors=False, scenes=[0], rollouts=1))
    assert "±" not in text
    assert "*" not in text


def test_pictures(evaluated, tmp_path):
    *_, result = evaluated
    evaluation_figure({"train": result, "validation": result}).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 50_000


@pytest.fixture(scope="module")
def challenged(config, make_store):
    store = make_store()
    policy = policy_for(config, store)
    return policy, store, evaluate_challenge(policy, config, store, scenes=[0, 1], rollouts=4)


def test_the_challenge_scores_what_the_submission_writes(challenged, config, tmp_path, monkeypatch):
    """The same drives as the written ones, scored on the files that the store was made of: but for simplified maps."""
    policy, store, result = challenged
    monkeypatch.setattr(submitted, "ROLLOUTS", 4)
    message = submission(policy, config, store, scenes=[0, 1], rollouts=4)
    (tmp_path / "s.binproto").write_bytes(message.SerializeToString())
    sample = str(Path(__file__).parents[1] / "data" / "sample")
    found = score_submission([str(tmp_path / "s.binproto")], [sample])["mean"]
    ours = result["results"]["policy"]
    of_maps = ("road_edge", "off_road", "traffic_light", "realism")
    for name, value in found.items():
        tolerance = 0.02 if name.endswith(of_maps) or name.startswith("realism") else 0.002
        assert ours[name] == pytest.approx(value, abs=tolerance), name


def test_what_is_told_of_the_challenge(challenged):
    _, store, result = challenged
    assert (result["protocol"], result["scenes"], result["rollouts"], result["left_out"]) == ("wosac", 2, 4, [])
    assert list(result["results"]) == ["policy", "log", "constant velocity"]
    roles = [record.scene.agent_role[record.scene.valid[:, 10]] for record in store.read([0, 1])]
    assert result["agents"] == sum(int((role & 3 > 0).sum()) for role in roles)
    realism = {driver: means["realism_2025"] for driver, means in result["results"].items()}
    assert realism["log"] > max(realism["policy"], realism["constant velocity"])
    assert result["results"]["log"]["ade"] == pytest.approx(0, abs=1e-5)
    assert json.loads(json.dumps(result)) == result
    text = io.StringIO()
    print_challenge(result, console=Console(file=text, width=WIDTH))
    assert f"{result['agents']} agents scored in 2 scenes" in text.getvalue()
    assert max(map(len, text.getvalue().splitlines())) <= WIDTH


def test_scenes_that_name_nobody_are_left_out(challenged, config):
    policy, store, _ = challenged

    class Nameless:
        path, steps, space = store.path, store.steps, store.space
        nameless = (0, 1)

        def read(self, scenes):
            for index, record in zip(scenes, store.read(scenes), strict=True):
                scene = record.scene
                role = np.zeros_like(scene.agent_role) if index in self.nameless else scene.agent_role
                yield replace(record, scene=replace(scene, agent_role=role))

    with pytest.raises(RunError, match="no scene names the recording car or tracks to predict, so nobody is scored"):
        evaluate_challenge(policy, config, Nameless(), scenes=[0, 1], rollouts=1)
    Nameless.nameless = (0,)
    found = evaluate_challenge(policy, config, Nameless(), scenes=[0, 1], rollouts=1)
    assert (found["scenes"], len(found["left_out"])) == (1, 1)


def test_roads_without_edges_are_not_known(challenged, config):
    """No share of agents off the road, of none that is safe; realism is of the rest. Where one of two maps has edges,
    of how many agents it is known is told."""
    policy, store, _ = challenged

    class Bare:
        path, steps, space = store.path, store.steps, store.space

        def read(self, scenes):
            for index, record in zip(scenes, store.read(scenes), strict=True):
                scene = record.scene
                rows = (scene.segment_type != 1) | (index == 1)
                names = ("segment", "segment_z", "segment_type", "segment_map_type", "segment_road")
                yield replace(record, scene=replace(scene, **{name: getattr(scene, name)[rows] for name in names}))

    found = evaluate(policy, config, Bare(), scenes=[0], rollouts=1, anchors=False)["results"]["policy"]
    for name in ("off_road", "safe_success", "full_off_road", "drawn_off_road", "likelihood_off_road"):
        assert found[name] is None, name
    assert 0 < found["realism_2025"] < 1
    assert found["collision"] is not None
    told = evaluate_challenge(policy, config, Bare(), scenes=[0], rollouts=1, anchors=False)["results"]["policy"]
    assert told["likelihood_off_road"] is None
    assert told["simulated_off_road"] is None
    assert said(evaluate(policy, config, Bare(), scenes=[1], rollouts=1, anchors=False)) == []
    both = evaluate(policy, config, Bare(), scenes=[0, 1], rollouts=1, anchors=False)
    agents = [len(record.demos.agent) for record in store.read([0, 1])]
    of_agents = f"off-road is known of {agents[1]} of {sum(agents)} agents, in 1 of 2 scenes"
    assert said(both) == [f"{of_agents}: the other maps have no road edges"]
    assert both["intervals"]["policy"]["off_road"] is None
    both = evaluate_challenge(policy, config, Bare(), scenes=[0, 1], rollouts=1, anchors=False)
    assert said(both, print_challenge) == ["off-road is known of 1 of 2 scenes: the other maps have no road edges"]


def said(result, show=print_evaluation):
    """The lines about off-road being known, below the tables."""
    text = io.StringIO()
    show(result, console=Console(file=text, width=WIDTH))
    return [line for line in text.getvalue().splitlines() if "is known of" in line]
