"""Which latent code each driver of the demos drives by: q(c | driver), learned together with the policy.

The demos of a driver, in all variants of their scene, have one code, and are a mixture over it: sum_c p(c) prod_t
pi(a_t | s_t, c), with p(c) alike for all codes. EM (Dempster, Laird & Rubin 1977) fits that while the policy is cloned,
batch by batch as batches come (Neal & Hinton 1998): before a batch is cloned, what its actions say of the codes of
their drivers is added to what was known of them; then each row is cloned with a code that is likely for its driver. As
the policy sees the situation, only what persists in how somebody drives and does not follow from the situation can tell
one code from another.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.networks.policy import Chooser

ROWS = 1 << 20
"""Rows of the table; drivers whose keys end alike share one: in a data set of 100,000 drivers a tenth of them."""
START = 2.0
"""Nats by which a driver seems to drive by a random code before anything is known of it, so that codes can differ."""
KEPT = 0.98
"""Share of the evidence that is kept from one batch with a driver to the next: the policy that it is about changes."""
_BALANCE_RATE = 0.1
"""How far, in log-space, the weights of codes move in a batch to where all would be equally frequent in it."""
_RAREST = 1e-3
"""Frequency below which a code is not told to be rarer."""


class Assignment:
    """What is known of the codes of all drivers.

    It is kept on the CPU, where sums have an order, so that a run that goes on does as one that was never stopped.

    Args:
        codes: C.
    """

    def __init__(self, codes: int) -> None:
        self._evidence = torch.zeros(ROWS, codes)
        self._balance = torch.zeros(codes)

    @torch.no_grad()
    def learn(self, log_prob: Tensor, driver: Tensor) -> Tensor:
        """The E-step: let actions of some drivers tell of their codes.

        Args:
            log_prob: [B, C] of each action, by each code.
            driver: [B] whose it is.

        Returns:
            [B, C] how likely each code is for each row's driver; each code about as often as another, over batches.
        """
        codes = log_prob.shape[1]
        row = driver & (ROWS - 1)
        fresh = ~self._evidence[row].any(dim=1)
        begin = START * torch.nn.functional.one_hot((driver >> 20) % codes, codes).to(log_prob.dtype)
        self._evidence[row[fresh]] = begin[fresh]
        self._evidence[row] *= KEPT  # once for each row of the table
        self._evidence.index_add_(0, row, log_prob - log_prob.mean(dim=1, keepdim=True))
        likely = (self._evidence[row] + self._balance).softmax(dim=1)
        self._balance -= _BALANCE_RATE * (codes * likely.mean(dim=0)).clamp(min=codes * _RAREST).log()
        return likely

    def __call__(self, chooser: Chooser, demos: Transitions) -> Tensor:
        """What :meth:`learn` tells of the drivers of demos [B], after these.

        Args:
            chooser: the policy, or the part of it that looks at what the demos hold.
            demos: with their drivers.
        """
        assert demos.driver is not None
        training = chooser.training
        chooser.eval()
        log_prob = chooser.log_prob_by_code(demos.observation, demos.action)
        chooser.train(training)
        return self.learn(log_prob.cpu(), demos.driver.cpu())

    def state_dict(self) -> dict[str, Tensor]:
        """The rows of the table that are known, and the weights of codes."""
        row = self._evidence.any(dim=1).nonzero().squeeze(1)
        return {"row": row, "evidence": self._evidence[row], "balance": self._balance.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self._evidence.zero_()
        self._evidence[state["row"].cpu()] = state["evidence"].cpu()
        self._balance.copy_(state["balance"])
