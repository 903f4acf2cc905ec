"""Which discriminator a configuration asks for."""

from __future__ import annotations

from gail_cli.gail.config.schema import DiscriminatorConfig
from gail_cli.gail.networks import discriminator, mlagents
from gail_cli.gail.networks.base import Discriminator
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ObservationConfig


def make_discriminator(
    config: DiscriminatorConfig, observation: ObservationConfig, space: ActionSpace, gamma: float
) -> Discriminator:
    """A fresh network, on the CPU.

    Args:
        config: its settings; ``compat`` decides which one it is.
        observation: the layout of the input.
        space: the actions.
        gamma: the discount that the policy is trained with.
    """
    if config.compat == "mlagents":
        return mlagents.DiscriminatorNetwork(observation, space, config.mlagents)
    return discriminator.DiscriminatorNetwork(observation, space, config, gamma)
