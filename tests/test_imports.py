"""What is imported only where it is needed, since it takes long."""

import subprocess
import sys
from pathlib import Path

from gail_cli.gail import evaluation
from gail_cli.gail.config.load import config_from_dict
from gail_cli.gail.learning.run import RunFolder, load_cloned
from gail_cli.gail.networks.policy import Policy
from gail_cli.sim.actions import ActionSpace

SMALL = {"observation": {"partners": 1, "road_segments": 1}, "policy": {"entity_hidden": 4, "hidden": 8}}


def test_a_policy_is_loaded_and_evaluated_without_checks_of_stores_and_without_pictures(tmp_path):
    """Neither does an episode need pictures, which is driven before it is drawn; in one process, in this order."""
    run, space = RunFolder(tmp_path / "run"), ActionSpace.create("classic")
    config = config_from_dict(SMALL)
    policy = Policy(config.observation, space, config.policy)
    run.describe(config, space, ["/data/store"], [])
    run.save({"networks": {"policy": policy.state_dict()}, "step": 3})
    files = Path(evaluation.__file__).parent.glob("[!_]*.py")
    modules = ["figures.episode", *(f"evaluation.{file.stem}" for file in files)]
    code = (
        "import sys; from gail_cli.gail.learning.run import load_run, load_cloned\n"
        f"load_run({str(run.path)!r}, 'cpu'); load_cloned({str(run.path)!r}, 'cpu')\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('matplotlib', 'tensorboard') or '.validate' in m])\n"
        f"for name in {modules}: __import__('gail_cli.gail.' + name)\n"
        "print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\nFalse\n"
    assert load_cloned(run.path, "cpu") is None
