"""The documentation agrees with the code."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from gail_cli import cli
from gail_cli.gail.config.aliases import FLAGS, MLAGENTS, RENAMED, SECTIONS, translate
from gail_cli.gail.config.document import descriptions, json_schema, with_tables
from gail_cli.gail.config.load import config_from_dict, config_to_dict, load_config
from gail_cli.gail.config.schema import GAILSettings, TrainConfig

ROOT = Path(__file__).parents[1]


def settings(value, prefix=""):
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            yield from settings(item, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, item


def sections(value):
    """The dataclass of an instance, and those of its sections."""
    yield type(value)
    for field in dataclasses.fields(value):
        if dataclasses.is_dataclass(getattr(value, field.name)):
            yield from sections(getattr(value, field.name))


def test_the_tables_of_the_settings_are_those_that_are_made():
    """If not: ``python -m gail_cli.gail.config.document docs/configuration.md``."""
    text = (ROOT / "docs/configuration.md").read_text()
    assert with_tables(text) == text


def test_every_field_of_the_settings_has_a_docstring():
    """In plain words: a sentence of its own, which begins with no preposition."""
    for kind in sections(TrainConfig()):
        told = descriptions(kind)
        assert set(told) == {field.name for field in dataclasses.fields(kind)}, kind
        for name, text in told.items():
            assert re.fullmatch(r".{5,}[.)]", text), (kind, name)
            assert not re.match(r"(Of|Likewise)\b", text), (kind, name)
            assert "``" not in text


def test_a_table_is_made_of_types_defaults_and_docstrings():
    text = "A\n<!-- settings: ppo -->\nold\n<!-- end -->\nB\n<!-- settings: top level -->\n<!-- end -->\n"
    first, second = re.findall(r"-->\n(.*?)<!-- end", with_tables(text), re.DOTALL)
    rows = first.splitlines()
    assert rows[:2] == ["| key | default | values | meaning |", "| --- | --- | --- | --- |"]
    assert (
        rows[2] == "| `ppo.learning_rate` | `0.0003` | number, positive | Learning rate of the policy at the start. |"
    )
    assert "| `ppo.bootstrap_truncation` | `true` | `true`, `false` | " in first
    assert "ppo." not in second.replace("`ppo.gamma`", "")
    for row in [
        "| `sim.selection.max_agents` | `null` | integer, not negative, or null | ",
        "| `data.store_weights` | `[]` | list of numbers | ",
        "| `wandb.mode` | `online` | `online`, `offline`, `disabled` | ",
        "| `augment.stretch` | `1.5` | number, in [1, 3] | ",
        "| `discriminator.mlagents.network_settings.memory` | `null` | section, or null | ",
    ]:
        assert f"\n{row}" in second
    assert "See [gpudrive.md](gpudrive.md)." in second
    assert with_tables(text).startswith("A\n<!--")
    assert "-->\nB\n<!--" in with_tables(text)


def test_the_schema_takes_what_is_taken_and_refuses_what_is_refused(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(json.dumps(json_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    whole = json.loads(json.dumps(config_to_dict(TrainConfig())))
    for given in [
        {}, whole, yaml.safe_load((ROOT / "data/demo.yaml").read_text()),
        {"ppo": {"clip": 0.1, "epochs": 2}}, {"environment": None},
        {"train": {"use_gail": True, "discriminator_lr": 3e-4}},
        {"reward_signals": {"gail": {"strength": 0.5, "network_settings": {"memory": {"size": 1}}}, "extrinsic": {}}},
        {"worlds": {"num_worlds": None}}, {"data": {"types": ["vehicle"]}},
    ]:  # fmt: skip
        assert [error.message for error in check.iter_errors(given)] == [], given
        config_from_dict(translate(given))
    for wrong in [
        {"sed": 1}, {"ppo": {"gama": 0.9}}, {"ppo": {"gamma": 1.5}}, {"ppo": {"clip": 0.0}}, {"ppo": None},
        {"seed": -1},
        {"ppo": {"clip": 0.1, "clip_coef": 0.1}}, {"device": "gpu"}, {"data": {"types": ["tram"]}}, {"train": {"x": 1}},
        {"sim": {"selection": {"max_agents": 1.5}}}, {"reward_signals": {"extrinsic": {}}},
    ]:  # fmt: skip
        assert not check.is_valid(wrong), wrong
        with pytest.raises(ValueError, match=r"configuration|reward_signals|earlier name"):
            config_from_dict(translate(wrong))


def test_the_schema_tells_what_each_setting_means_and_its_default():
    schema = json_schema()
    for key, default in settings(TrainConfig()):
        place = schema
        for name in key.split("."):
            assert place["additionalProperties"] is False
            place = place["properties"][name]
        assert place["default"] == (list(default) if isinstance(default, tuple) else default), key
        assert place["description"]
    assert schema["properties"]["sim"]["properties"]["reward"]["default"] == "weighted_combination"
    ppo = schema["properties"]["ppo"]["properties"]
    assert (ppo["clip"]["deprecated"], ppo["clip"]["exclusiveMinimum"]) == (True, 0)
    assert "deprecated" not in ppo["clip_coef"]


def test_the_command_writes_the_schema(tmp_path):
    printed = CliRunner().invoke(cli.cli, ["schema"]).stdout
    assert json.loads(printed) == json.loads(json.dumps(json_schema()))
    result = CliRunner().invoke(cli.cli, ["schema", "--out", str(tmp_path / "new" / "schema.json")])
    assert (result.exit_code, result.stdout) == (0, f"schema: {tmp_path}/new/schema.json\n")
    assert (tmp_path / "new" / "schema.json").read_text() == printed


def test_every_setting_is_documented_with_its_default():
    text = (ROOT / "docs/configuration.md").read_text()
    documented = dict(re.findall(r"^\| `([a-z_.]+)` \| `([^`]*)` \|", text, re.MULTILINE))
    assert set(documented) == {key for key, _ in settings(TrainConfig())}
    for key, default in settings(TrainConfig()):
        loaded = load_config(None, [f"{key}={documented[key]}"])
        assert dict(settings(loaded))[key] == default, key


def test_every_name_of_the_references_is_documented():
    """In one table, with the key here, and the flag where there is one."""
    text = (ROOT / "docs/configuration.md").read_text().split("## Names of the references")[1]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    documented = {name: (theirs, ours) for theirs, _, ours in rows for name in re.findall(r"`([a-z_.]+)`", theirs)}
    for section, keys in SECTIONS.items():
        for name, key in keys.items():
            theirs, ours = documented.pop(f"{section}.{name}")
            assert f"`{key}`" in ours
            assert (f"`--{name.replace('_', '-')}`" in theirs) == (name in FLAGS), name
    for key, _ in settings(GAILSettings()):
        assert f"`{MLAGENTS}.{key}`" in documented.pop(f"reward_signals.gail.{key}")[1]
    rest = {name for name in documented if not name.startswith((".", "wandb"))}
    assert rest == {"single_agent_gail.py", "gail.py"}


def test_every_name_of_earlier_versions_is_documented():
    text = (ROOT / "docs/configuration.md").read_text().split("## Names of earlier versions")[1].split("\n## ")[0]
    assert dict(re.findall(r"`(ppo\.\w+)`\s+is\s+`(ppo\.\w+)`", text)) == RENAMED


def test_example_and_demo_configurations_load(tmp_path):
    example = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/configuration.md").read_text(), re.DOTALL)
    (tmp_path / "example.yaml").write_text(example.group(1))
    assert load_config(tmp_path / "example.yaml").bc.steps == 3000
    load_config(ROOT / "data/demo.yaml")


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    local = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert all(((ROOT / page).parent / link).exists() for link in local)


def test_the_training_loop_of_the_documentation_runs(make_store, tmp_path, monkeypatch, capfd):
    """The code block of docs/scale.md, on a small store of that name."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/scale.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.zarr").symlink_to(make_store(scenes=2).path)
    exec(block, {})
    size = load_config().observation.size
    assert f"torch.Size([1024, {size}]) torch.Size([1024, 2]) torch.Size([1024, {size}])" in capfd.readouterr().out
