"""Action spaces: what a policy may do in one step, as data that is stored with the demos.

Expert and policy are quantised by the same :class:`ActionSpace`, so a discriminator finds no difference there. torch is
imported where actions are turned into values, so that a store can be described without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

BICYCLE_MAX_ACCEL = 6.0
"""Beyond this the bicycle model clips accelerations, m/s^2."""


class Dynamics(IntEnum):
    """The dynamics models, by GPUDrive's names."""

    CLASSIC = 0
    BICYCLE = 1
    DELTA_LOCAL = 2
    STATE = 3

    @property
    def action_names(self) -> tuple[str, ...]:
        """Components of an action, with units."""
        return _ACTION_NAMES[self]


CAN_REVERSE = (Dynamics.CLASSIC, Dynamics.BICYCLE)
"""The models whose state has a speed, which may be signed (:attr:`ActionSpace.reverse`)."""

_ACTION_NAMES = {
    Dynamics.CLASSIC: ("acceleration (m/s^2)", "steering (rad)"),
    Dynamics.BICYCLE: ("acceleration (m/s^2)", "curvature (1/m)"),
    Dynamics.DELTA_LOCAL: ("dx (m)", "dy (m)", "dheading (rad)"),
    Dynamics.STATE: ("x (m)", "y (m)", "heading (rad)", "vx (m/s)", "vy (m/s)"),
}


def _mirror(positive: list[float]) -> tuple[float, ...]:
    return (*(-v for v in reversed(positive)), 0.0, *positive)


def _linspace(low: float, high: float, n: int) -> tuple[float, ...]:
    return tuple(np.linspace(low, high, n).tolist())


def _rounded(low: float, high: float, n: int) -> tuple[float, ...]:
    return tuple(np.linspace(low, high, n).round(3).tolist())


GRIDS: dict[tuple[Dynamics, str], tuple[tuple[float, ...], ...]] = {
    # This project's: finer around zero, where people spend most of their time; always with an exact zero.
    (Dynamics.CLASSIC, "fine"): (
        _mirror([0.2, 0.5, 1.0, 1.75, 2.75, 4.0, 6.0]),
        _mirror([0.005, 0.012, 0.025, 0.045, 0.075, 0.12, 0.18, 0.26, 0.36, 0.5, 0.7, 1.0]),
    ),
    # The former "fine", too narrow for U-turns: at 0.5 rad a car of 4.8 m needs a radius of 9 m, at 1.0 rad of 4 m.
    (Dynamics.CLASSIC, "fine-0.5"): (
        _mirror([0.2, 0.5, 1.0, 1.75, 2.75, 4.0, 6.0]),
        _mirror([0.005, 0.012, 0.025, 0.045, 0.075, 0.12, 0.18, 0.26, 0.36, 0.5]),
    ),
    (Dynamics.BICYCLE, "fine"): (
        _mirror([0.2, 0.5, 1.0, 1.75, 2.75, 4.0, 6.0]),
        _mirror([0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.06, 0.1, 0.16, 0.24]),
    ),
    (Dynamics.DELTA_LOCAL, "fine"): (
        (-0.1, -0.03, *_linspace(0.0, 3.0, 61)),
        _mirror([0.01, 0.025, 0.05, 0.1, 0.2]),
        _mirror([0.002, 0.005, 0.01, 0.02, 0.035, 0.06, 0.1, 0.2]),
    ),
    # GPUDrive's defaults (gpudrive/env/config.py), which it rounds to three decimals.
    (Dynamics.CLASSIC, "gpudrive"): (_rounded(-4.0, 4.0, 7), _rounded(-np.pi, np.pi, 13)),
    (Dynamics.BICYCLE, "gpudrive"): (_rounded(-4.0, 4.0, 7), _rounded(-np.pi, np.pi, 13)),
    (Dynamics.DELTA_LOCAL, "gpudrive"): (_rounded(-2.0, 2.0, 20), _rounded(-2.0, 2.0, 20), _rounded(-3.14, 3.14, 20)),
}
"""Named grids: the values of each action component. The grid is their product, the last component fastest."""

BOUNDS: dict[Dynamics, tuple[tuple[float, float], ...]] = {
    Dynamics.CLASSIC: ((-6.0, 6.0), (-0.6, 0.6)),
    Dynamics.BICYCLE: ((-6.0, 6.0), (-0.3, 0.3)),
    Dynamics.DELTA_LOCAL: ((-6.0, 6.0), (-6.0, 6.0), (-np.pi, np.pi)),
}
"""Limits of continuous actions (bicycle, delta_local: those of GPUDrive's ``get_expert_actions``)."""

WIDE_STEERING = (-1.0, 1.0)
"""Limits of the steering of ``classic`` where it knows reverse, rad: enough for U-turns, as in its fine grid. Without
reverse they are the former ones of :data:`BOUNDS`, which policies of that time scale their actions by."""

_LARGEST = 1e7
"""Bound of values without limits: beyond it float32 does not resolve metres any more."""


@dataclass(frozen=True)
class ActionSpace:
    """The actions of one dynamics model: a grid of values per component, or an interval per component.

    A discrete action is a row of K indices, one per component; a continuous one a row of K values. ``state`` has five
    unbounded continuous components and no grid.
    """

    dynamics: Dynamics
    grid: tuple[tuple[float, ...], ...] | None = None
    """Values of each component, ascending; None for continuous actions."""
    reverse: bool = False
    """Whether the vehicle models (:data:`CAN_REVERSE`) know a signed speed, so that braking beyond standstill backs
    off. Without it speed is the length of the velocity, as in GPUDrive. Other models move either way in any case."""

    @classmethod
    def create(
        cls, dynamics: str, actions: str = "discrete", grid: str = "fine", *, reverse: bool = True
    ) -> ActionSpace:
        """The action space of a model and a kind, by name.

        Args:
            dynamics: name of the model.
            actions: ``discrete`` or ``continuous``.
            grid: name of the values of discrete actions.
            reverse: whether a vehicle model knows reverse; GPUDrive's do not.

        Raises:
            ValueError: for a name or a combination that does not exist, naming those that do.
        """
        try:
            model = Dynamics[dynamics.upper()]
        except KeyError:
            known = ", ".join(d.name.lower() for d in Dynamics)
            raise ValueError(f"dynamics {dynamics!r} is unknown; use one of {known}") from None
        reverse = reverse and model in CAN_REVERSE
        if actions == "continuous":
            return cls(model, reverse=reverse)
        if actions != "discrete":
            raise ValueError(f"actions {actions!r} is unknown; use discrete or continuous")
        if (model, grid) not in GRIDS:
            known = ", ".join(name for d, name in GRIDS if d == model)
            if not known:
                raise ValueError(f"dynamics {dynamics!r} has no discrete actions; use --actions continuous")
            raise ValueError(f"action grid {grid!r} is unknown for dynamics {dynamics!r}; use one of {known}")
        return cls(model, GRIDS[model, grid], reverse)

    @property
    def discrete(self) -> bool:
        """Whether actions are indices into a grid."""
        return self.grid is not None

    @property
    def grid_name(self) -> str | None:
        """The name of its grid in :data:`GRIDS`; None for one of its own, and without a grid."""
        return next(
            (name for (model, name), grid in GRIDS.items() if (model, grid) == (self.dynamics, self.grid)), None
        )

    @property
    def components(self) -> int:
        """K, the number of components."""
        return len(self.dynamics.action_names)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of grid values of each component; empty for continuous actions."""
        return tuple(len(values) for values in self.grid or ())

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """(low, high) of each component."""
        if self.grid is not None:
            return tuple((values[0], values[-1]) for values in self.grid)
        if self.dynamics == Dynamics.CLASSIC and self.reverse:
            return BOUNDS[self.dynamics][0], WIDE_STEERING
        return BOUNDS.get(self.dynamics, ((-np.inf, np.inf),) * self.components)

    def decode(self, actions: torch.Tensor) -> torch.Tensor:
        """Values [N, K] float32 of actions [N, K] (indices, or values, which are clipped to the bounds); NaN is 0.

        Raises:
            ValueError: for indices that are no integers, or beyond the grid. The latter is not checked on CUDA, where
                that would wait for the device: there the nearest index is taken.
        """
        import torch

        table, first, last = _tables(self, actions.device)
        if self.grid is None:
            return actions.float().nan_to_num(0.0, _LARGEST, -_LARGEST).clamp(table[0], table[1])
        if actions.is_floating_point():
            raise ValueError(f"actions of a grid are integer indices, not {actions.dtype}; see ActionSpace.encode")
        index = actions.long()
        kept = index.clamp(torch.zeros_like(last), last)
        if actions.device.type == "cpu" and not torch.equal(index, kept):
            raise ValueError(f"an action index is beyond the grid, whose sizes are {self.sizes}; give 0 to size - 1")
        return table[kept + first]

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        """Actions [N, K] nearest to the given values [N, K]: indices (int64), or the values clipped to the bounds."""
        if self.grid is None:
            return self.decode(values)
        import torch

        tables = _tables(self, values.device)[0].split(self.sizes)
        columns = [(values[:, k : k + 1] - table).abs().argmin(dim=1) for k, table in enumerate(tables)]
        return torch.stack(columns, dim=1)

    def to_json(self) -> dict[str, Any]:
        """A description that :meth:`from_json` turns back into an equal space."""
        return {
            "dynamics": self.dynamics.name.lower(),
            "actions": "discrete" if self.discrete else "continuous",
            "components": list(self.dynamics.action_names),
            "grid": None if self.grid is None else [list(values) for values in self.grid],
            **({"reverse": True} if self.reverse else {}),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ActionSpace:
        """The space that :meth:`to_json` described; one that says nothing of reverse has none."""
        grid = None if data["grid"] is None else tuple(tuple(values) for values in data["grid"])
        return cls(Dynamics[data["dynamics"].upper()], grid, data.get("reverse", False))


@lru_cache(maxsize=16)
def _tables(space: ActionSpace, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values of all components one after the other, [K] where each begins, [K] the last index of each.

    Without a grid: the bounds [2, K], and nothing.
    """
    import torch

    first, last = torch.tensor([0, *accumulate(space.sizes)][:-1]), torch.tensor(space.sizes) - 1
    values = torch.tensor(space.bounds).T if space.grid is None else torch.tensor(list(chain(*space.grid)))
    return values.float().clamp(-_LARGEST, _LARGEST).to(device), first.to(device), last.to(device)
