import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from strategies import gpudrive_scene

from gail_cli.data import SAMPLE
from gail_cli.pipeline.extract.build import ExtractConfig
from gail_cli.pipeline.extract.extract import ExtractOptions, extract
from gail_cli.pipeline.records import ABSENT, BRIDGED, LOGGED
from gail_cli.pipeline.store.files import json_bytes
from gail_cli.pipeline.store.store import DemoStore, sealed, unsealed
from gail_cli.pipeline.validate.validate import Expectation, validate_store
from gail_cli.sim.actions import ActionSpace

WOMD = Path(__file__).parents[2] / "shared" / "womd"
needs_real = pytest.mark.skipif(not WOMD.exists(), reason=f"{WOMD} (Waymo data, not part of the project) is absent")
PART = Path("parts", "00000")
DIGEST = "its files are not those that were written"


def make_store(path, scenes_per_part):
    """Two scenes, with pedestrians, lights and every mark."""
    config = ExtractConfig(ActionSpace.create("classic"), scenes_per_part=scenes_per_part, agents="all")
    source = str(SAMPLE / "synthetic-00001-of-00004.tfrecord")
    extract([source], str(path), config, options=ExtractOptions(workers=1), limit=2)
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Two scenes in one part, which has lights and every mark."""
    return make_store(tmp_path_factory.mktemp("sound") / "store", scenes_per_part=2)


@pytest.fixture(scope="module")
def sound_parts(tmp_path_factory):
    """The same scenes in two parts."""
    return make_store(tmp_path_factory.mktemp("sound") / "parts", scenes_per_part=1)


@pytest.fixture
def copy(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "store")


@pytest.fixture
def two_parts(sound_parts, tmp_path):
    return shutil.copytree(sound_parts, tmp_path / "store")


def lines(path, *args, **kwargs):
    return [str(problem) for problem in validate_store(path, *args, **kwargs)]


def change_entry(root, change, name="00000"):
    """Change a manifest entry as its writer would have sealed it."""
    file = root / "manifest" / f"{name}.json"
    entry = unsealed(json.loads(file.read_bytes()))
    change(entry)
    file.write_bytes(json_bytes(sealed(entry)))


def change_root(root, change):
    """The same with the root's attributes."""
    data = json.loads((root / "zarr.json").read_bytes())
    attributes = unsealed(data["attributes"])
    change(attributes)
    (root / "zarr.json").write_bytes(json_bytes({**data, "attributes": sealed(attributes)}))


def test_a_sound_store_has_no_problem(sound_parts):
    calls = []
    assert lines(sound_parts, progress=lambda *call: calls.append(call)) == []
    assert calls == [(0, 2), (1, 2), (2, 2)]
    records = list(DemoStore(sound_parts).read())
    assert sum(record.vru.num_demos for record in records) > 0
    assert sum(len(record.scene.light_lane) for record in records) > 0
    assert {0, 1, 2} == {int(m) for record in records for m in np.unique(record.demos.mark)}


@pytest.mark.parametrize(
    "space",
    [
        ActionSpace.create("bicycle", "continuous"),
        ActionSpace.create("delta_local"),
        ActionSpace.create("state", "continuous"),
    ],
)
def test_stores_of_other_action_spaces_are_sound(tmp_path, space):
    extract([str(SAMPLE)], str(tmp_path / "store"), ExtractConfig(space), ExtractOptions(workers=1), limit=1)
    assert lines(tmp_path / "store") == []


# One array is changed and nothing else; each change is told by its own check (and by the digest).


def put(where, value):
    """A change of the array's elements at an index, or where a mask of them is true."""

    def change(array, _):
        array[where(array) if callable(where) else where] = value

    return change


def add(where, value):
    def change(array, _):
        array[where] += value

    return change


def set_mark(old, new, choose=0):
    """The mark of one step among those that are ``old``."""

    def change(array, _):
        places = np.argwhere(array == old)
        array[tuple(places[choose])] = new

    return change


def absent_states(array, arrays):
    array[tuple(np.argwhere(arrays["demos/mark"] == ABSENT)[0])] = 1


def invalid_log(array, arrays):
    array[tuple(np.argwhere(~arrays["tracks/valid"])[0])] = 1


def idle_action(array, _):
    array[0, -1] = 1


def hole(array, arrays):
    """Make the log invalid within a demo, which leaves a logged mark there."""
    row = arrays["demos/agent"][0]
    array[row, 5] = False


MUTATIONS = [
    ("scenes/agent_start", put(0, 1), "does not rise from 0 to the number of rows"),
    ("scenes/agent_start", put(1, 10**6), "does not rise from 0"),
    ("scenes/demo_start", put(-1, 1), "does not rise from 0"),
    ("scenes/id", put((1, 0), 35), "the id is not the manifest's"),
    ("scenes/origin", put((0, 0), np.nan), "a number is not finite"),
    ("scenes/timestamp", add((0, slice(5, None)), 0.2), "steps are not 0.1 s apart"),
    ("scenes/timestamp", put((0, 0), np.inf), "a number is not finite"),
    ("agents/type", put(0, 9), "a code is not within 0 to 4"),
    ("agents/role", put(0, 200), "a code is not within 0 to 63"),
    ("agents/size", put(slice(None), -1), "a length or width is not between 0 and 100 m"),
    ("agents/size", put((-1, 0), 1e9), "a length or width is not between 0 and 100 m"),
    ("tracks/log", put((0, 0, 3), 1e6), "an agent is faster than 200 m/s"),
    ("tracks/log", put((0, 0, 0), np.nan), "a number is not finite"),
    ("tracks/log", put((0, 0, 0), -10000), "more than 3000 m from the scene's middle"),
    ("tracks/log", put((0, 0, 1), -11000), "more than 3000 m from the scene's middle"),
    ("tracks/log", put((0, 0, 2), 90), "a heading is not within +-pi"),
    ("tracks/log", invalid_log, "a state is not zero where not valid"),
    ("tracks/valid", hole, "marked logged where the log is not valid"),
    ("roads/segment", put((0, 0), np.nan), "a number is not finite"),
    ("roads/segment", put((0, 2), -1), "a half-length or half-width is negative"),
    ("roads/segment", put((0, 4), 7), "a heading is not within +-pi"),
    ("roads/type", put(0, 0), "a code is not within 1 to 6"),
    ("lights/state", put((0, 0), 9), "a code is not within -1 to 8"),
    ("demos/agent", put(0, -1), "the agent is not in its scene"),
    ("demos/agent", put(0, 10**6), "the agent is not in its scene"),
    ("demos/agent", lambda a, _: a.__setitem__(1, a[0]), "the agent has a demo already, or is out of order"),
    ("demos/mark", put((0, 3), 3), "a code is not within 0 to 2"),
    ("demos/mark", set_mark(BRIDGED, LOGGED), "marked logged where the log is not valid"),
    ("demos/mark", set_mark(LOGGED, BRIDGED, 3), "marked bridged where the log is valid"),
    ("demos/mark", set_mark(LOGGED, ABSENT), "marked absent where the log is valid"),
    ("demos/mark", set_mark(LOGGED, ABSENT, 3), "the demo is not one unbroken span"),
    ("demos/mark", set_mark(ABSENT, BRIDGED, -1), "the demo does not begin and end at a logged step"),
    ("demos/state", put((0, 3, 0), np.nan), "a number is not finite"),
    ("demos/state", put((0, 3, 0), -11000), "more than 3000 m from the scene's middle"),
    ("demos/state", put((0, 3, 2), 3.2), "a heading is not within +-pi"),
    ("demos/state", absent_states, "a state is not zero where absent"),
    ("demos/state", add((0, 3, 0), 0.002), "the stored actions do not lead to the stored states"),
    ("demos/state", add((0, slice(0, 40), 1), 1), "ade_m is not that of the stored states and actions"),
    ("demos/action", put((0, 3, 0), -1), "an index is outside the action grid of 15 x 25"),
    ("demos/action", put((0, 3, 1), 25), "an index is outside the action grid of 15 x 25"),
    ("demos/action", idle_action, "an action is not zero where the demo does not go on"),
    ("demos/action", lambda a, _: a.__setitem__((0, 3, 0), (a[0, 3, 0] + 5) % 15), "do not lead to the stored states"),
    ("demos/quality", add((0, 0), 0.01), "ade_m is not that of the stored states and actions"),
    ("demos/quality", add((0, 1), 0.01), "fde_m is not that of"),
    ("demos/quality", add((0, 2), 0.01), "heading_error_rad is not that of"),
    ("demos/quality", put((0, 3), 0.5), "goal is not that of"),
    ("demos/quality", add((0, 4), 0.1), "saturated is not that of"),
    ("demos/quality", add((0, 5), 0.1), "zero is not that of"),
    ("demos/quality", put((0, 6), -1), "quantisation_m is negative"),
    ("vru/agent", put(0, -1), "the agent is not in its scene"),
    ("vru/mark", set_mark(LOGGED, ABSENT, 3), "the demo is not one unbroken span"),
    ("vru/state", add((0, 3, 0), 0.002), "the stored actions do not lead to the stored states"),
    ("vru/action", put((0, 3, 0), 7.0), "an action is outside the bounds"),
    ("vru/quality", add((0, 0), 0.01), "ade_m is not that of the stored states and actions"),
]


@pytest.mark.parametrize(("path", "change", "told"), MUTATIONS)
def test_each_kind_of_corruption_is_told(copy, path, change, told):
    group = zarr.open_group(copy / PART, mode="r+")
    array = np.asarray(group[path][...])
    arrays = {name: np.asarray(group[name][...]) for name in ("demos/mark", "demos/agent", "tracks/valid")}
    change(array, arrays)
    group[path][...] = array
    got = lines(copy)
    assert any(DIGEST in line for line in got)
    found = [line for line in got if told in line]
    assert found, got
    assert all(line.startswith(f"store {copy}, part 00000, ") and "extract the store again" in line for line in got[1:])
    assert not any("\n" in line for line in got)
    assert any(f"part 00000, {path}: " in line for line in found) or path in (
        "tracks/valid",
        "demos/action",
        "demos/state",
        "vru/state",
    )


@pytest.mark.parametrize(
    ("space", "value"), [(ActionSpace.create("classic", "continuous"), 6.5), (ActionSpace.create("delta_local"), 99)]
)
def test_actions_outside_other_spaces_are_told(tmp_path, space, value):
    extract([str(SAMPLE)], str(tmp_path / "store"), ExtractConfig(space), ExtractOptions(workers=1), limit=1)
    group = zarr.open_group(tmp_path / "store" / PART, mode="r+")
    group["demos/action"][0, 3, 1] = value
    assert any("outside the" in line for line in lines(tmp_path / "store"))


@pytest.mark.parametrize(
    ("path", "make", "told"),
    [
        ("demos/state", lambda a: a.astype(np.float64), "has data type float64 instead of float32"),
        ("demos/mark", lambda a: a[:, :-1], "has shape"),
        ("tracks/log", lambda a: a[:-1], "has shape"),
        ("scenes/demo_start", lambda a: a[:-1], "has shape"),
        ("lights/lane", None, "cannot be read"),
    ],
)
def test_arrays_of_another_form_are_told(copy, path, make, told):
    group = zarr.open_group(copy / PART, mode="r+")
    array = np.asarray(group[path][...])
    shutil.rmtree(copy / PART / path)
    if make:
        group.create_array(path, data=make(array))
    got = lines(copy)
    assert len(got) == 2
    assert DIGEST in got[0]
    assert f"part 00000, {path}: {told}" in got[1]


def shuffle_index(root):
    array = zarr.open_array(root / "index" / "part", mode="r+")
    array[...] = array[...][::-1]


def other_groups(root):
    zarr.open_array(root / "index" / "group", mode="r+")[0] = 1


def other_ids(root):
    zarr.open_array(root / "index" / "id", mode="r+")[0, 0] = 35


def other_split(root):
    zarr.open_array(root / "index" / "split", mode="r+")[0] = 3


def change_node(file):
    file.write_bytes(file.read_bytes().replace(b'"node_type": "group"', b'"node_type": "grouq"'))


def more_demos(entry):
    entry["demos"] += 1


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda root: shutil.rmtree(root / PART), "part 00000: its folder is missing"),
        (
            lambda root: shutil.rmtree(root / PART / "demos" / "agent" / "c"),
            "agent: cannot be read (its file is missing)",
        ),
        (lambda root: shutil.copytree(root / PART, root / "parts" / "x"), "part x: is not part of the store"),
        (lambda root: (root / "manifest" / "00001.json").unlink(), "listed in the attributes but not in the manifest"),
        (lambda root: change_entry(root, more_demos), "demos/state: has shape"),
        (lambda root: change_entry(root, more_demos), "its attributes count"),
        (lambda root: (root / "manifest" / "00000.json").write_text("{"), "manifest/00000.json: the entry is damaged"),
        (shuffle_index, "index/part: its values are not those"),
        (other_split, "index: its files are not those that were written"),
        (other_split, "index/split: a code is not within 0 to 2"),
        (other_groups, "index/group: its logs are not those of the fingerprints"),
        (other_ids, "index/id: its ids are not those"),
        (lambda root: (root / "index/id/zarr.json").unlink(), "index: its files are not those that were written"),
        (lambda root: (root / "parts/zarr.json").unlink(), "parts/zarr.json: does not say that a Zarr group is here"),
        (lambda root: change_node(root / "zarr.json"), "zarr.json: does not say that a Zarr group is here"),
        (lambda root: shutil.rmtree(root / "index" / "part"), "index: the index is damaged"),
        (lambda root: change_root(root, lambda d: d.update(dt_s=0.2)), "0.2 s apart"),
        (lambda root: change_root(root, lambda d: d.update(arrays={})), "not those of the"),
        (lambda root: change_root(root, lambda d: d.update(version=[9, 0])), "newer than"),
        (lambda root: change_root(root, lambda d: d.update(complete=False)), "not finish"),
        (lambda root: change_root(root, lambda d: d.pop("steps")), "zarr.json is damaged"),
        (lambda root: (root / "zarr.json").unlink(), "there is no demo store here; make one with"),
    ],
)
def test_damage_of_the_store_as_a_whole_is_told(two_parts, damage, told):
    damage(two_parts)
    got = lines(two_parts, sample=0)
    assert any(told in line for line in got), got
    assert all(line.startswith(f"store {two_parts}") and "\n" not in line and "; " in line for line in got)


def given(path, form):
    """Other ways to write the path of a folder."""
    parent, name = path.parent, path.name
    return {"slash": f"{path}/", "double": f"{parent}//{name}", "url": f"file://{path}"}[form]


@pytest.mark.parametrize("form", ["slash", "double", "url"])
def test_problems_have_their_fields_however_the_path_is_written(copy, tmp_path, form):
    (problem,) = validate_store(given(tmp_path / "none", form))
    fix = "make one with `gail-cli extract-demos SOURCES... --store PATH`"
    expected = {"where": f"store {tmp_path / 'none'}", "what": "there is no demo store here", "fix": fix}
    assert vars(problem) == expected
    (copy / "manifest" / "00000.json").write_text("{")
    (problem,) = validate_store(given(copy, form))
    assert problem.where == f"store {copy}, manifest/00000.json"
    assert problem.what.startswith("the entry is damaged (")
    assert problem.fix == "extract the store again"


@pytest.mark.parametrize("form", ["slash", "double", "url"])
def test_a_damaged_index_is_told_without_its_place(copy, form):
    shutil.rmtree(copy / "index" / "part")
    what = "the index is damaged (a file is missing: "
    (problem,) = [p for p in validate_store(given(copy, form), sample=0) if p.what.startswith("the index")]
    assert problem.where == f"store {given(copy, form)}, index"
    assert problem.what.startswith(what)
    assert problem.fix == "extract the store again with --overwrite"


def test_a_flipped_bit_anywhere_in_a_part_is_told(two_parts):
    """In both parts at once, since it takes a while to look."""
    rng, names = np.random.default_rng(0), ("00000", "00001")
    parts = [sorted(p for p in (two_parts / "parts" / name).rglob("*") if p.is_file()) for name in names]
    for files in zip(*(rng.choice(part, 12) for part in parts), strict=True):
        whole = [file.read_bytes() for file in files]
        for file, content in zip(files, whole, strict=True):
            data = bytearray(content)
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            file.write_bytes(data)
        told = [line for line in lines(two_parts, sample=0) if DIGEST in line]
        assert all(f"part {name}" in line for name, line in zip(names, told, strict=True)), files
        for file, content in zip(files, whole, strict=True):
            file.write_bytes(content)
    assert lines(two_parts) == []


def test_the_sample_of_replays_is_seeded_and_bounded(two_parts):
    zarr.open_group(two_parts / PART, mode="r+")["demos/state"][:, 3, 0] += 0.002
    told = [any("do not lead to" in line for line in lines(two_parts, sample=1, seed=seed)) for seed in range(4)]
    assert set(told) == {True, False}
    assert not any("do not lead to" in line for line in lines(two_parts, sample=0))


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (Expectation("classic", "discrete", "fine", learnable=True), []),
        (Expectation(), []),
        (Expectation("bicycle"), ["dynamics classic, but the run wants bicycle; set classic in"]),
        (Expectation(actions="continuous", grid="fine"), ["actions discrete, but the run wants continuous"]),
        (Expectation(grid="gpudrive"), ["its action grid is not the grid 'gpudrive' that the run wants"]),
        (Expectation(split="train", agents="vru"), []),
        (Expectation(split="test"), ["0 scene(s) in the split test, but the run wants some; set data.split"]),
        (Expectation("classic", agents="vru"), ["dynamics delta_local, but the run wants classic"]),
    ],
)
def test_the_fit_with_a_training_run(sound, wanted, told):
    got = lines(sound, wanted, sample=0)
    assert len(got) == len(told)
    assert all(part in line for part, line in zip(told, got, strict=True))


def test_a_store_without_pedestrians_does_not_fit_a_run_for_them(tmp_path):
    config = ExtractConfig(ActionSpace.create("classic"))
    extract([str(SAMPLE)], str(tmp_path / "store"), config, ExtractOptions(workers=1), limit=1)
    (got,) = lines(tmp_path / "store", Expectation(agents="vru"))
    assert "no demos of pedestrians and cyclists, but the run wants to learn from them" in got


def test_one_agent_that_is_valid_once_is_sound(tmp_path):
    data = gpudrive_scene(steps=30)
    data["objects"][1]["valid"] = [True] + [False] * 29
    (tmp_path / "a.json").write_text(json.dumps(data))
    config = ExtractConfig(ActionSpace.create("classic"))
    extract([str(tmp_path / "a.json")], str(tmp_path / "store"), config, ExtractOptions(workers=1))
    assert lines(tmp_path / "store") == []


@needs_real
def test_real_scenes_are_sound(tmp_path):
    space = ActionSpace.create("bicycle", "continuous")
    extract([str(WOMD / "*" / "*")], str(tmp_path / "store"), ExtractConfig(space), ExtractOptions(workers=1), limit=4)
    assert lines(tmp_path / "store") == []
