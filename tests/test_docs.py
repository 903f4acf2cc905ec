"""The documentation agrees with the code."""

import dataclasses
import re
from pathlib import Path

import pytest

from gail_cli.gail.config.aliases import FLAGS, MLAGENTS, SECTIONS
from gail_cli.gail.config.load import load_config
from gail_cli.gail.config.schema import GAILSettings, TrainConfig

ROOT = Path(__file__).parents[1]


def settings(value, prefix=""):
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            yield from settings(item, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, item


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
    (tmp_path / "train.zarr").symlink_to(make_store().path)
    exec(block, {})
    size = load_config().observation.size
    assert f"torch.Size([1024, {size}]) torch.Size([1024, 2]) torch.Size([1024, {size}])" in capfd.readouterr().out
