"""Which discriminator a configuration asks for."""

from __future__ import annotations

from gail_cli.gail.config.schema import DiscriminatorConfig
from gail_cli.gail.networks import discriminator, mlagents
from gail_cli.gail.networks.base import Discriminator
from gail_cli.gail.networks.encoder import Seen
from gail_cli.sim.actions import ActionSpace


def make_discriminator(config: DiscriminatorConfig, seen: Seen, space: ActionSpace, gamma: float) -> Discriminator:
    """A fresh network, on the CPU.

    Args:
        config: its settings; ``compat`` decides which one it is.
        seen: what it looks at; ML-Agents' looks at observations alone.
        space: the actions.
        gamma: the discount that the policy is trained with.
    """
    if config.compat == "mlagents":
        assert not isinstance(seen, int)
        return mlagents.DiscriminatorNetwork(seen, space, config.mlagents)
    return discriminator.DiscriminatorNetwork(seen, space, config, gamma)
