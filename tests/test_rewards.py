import math

import pytest
import torch

from gail_cli.gail.learning import rewards

LOGITS = [-30.0, -2.0, 0.0, 1.5, 30.0]


def sigmoid(f):
    return 1 / (1 + math.exp(-f))


@pytest.mark.parametrize(
    ("form", "closed"),
    [
        ("logit", lambda f: f),
        ("gail", lambda f: math.log1p(math.exp(f))),
        ("airl", lambda f: -math.log1p(math.exp(-f))),
        ("bounded", lambda f: sigmoid(f) - 0.5),
        ("dail", lambda f: sigmoid(f) * sigmoid(2 * f)),  # as (1 + tanh f) / 2 = sigmoid(2 f)
    ],
)
def test_forms_are_their_closed_forms(form, closed):
    found = rewards.FORMS[form](torch.tensor(LOGITS, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([closed(f) for f in LOGITS], dtype=torch.float64))


def test_forms_in_terms_of_the_probability_of_expert():
    d = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    by_hand = {"logit": d.log() - (1 - d).log(), "gail": -(1 - d).log(), "airl": d.log(), "bounded": d - 0.5}
    by_hand["dail"] = d**3 / (d**2 + (1 - d) ** 2)  # as sigmoid(2 f) = D^2 / (D^2 + (1 - D)^2)
    assert by_hand.keys() == rewards.FORMS.keys()
    for form, expected in by_hand.items():
        torch.testing.assert_close(rewards.FORMS[form](d.logit()), expected)


def test_the_absorbing_state_pays_for_the_steps_that_are_left():
    """2 (0.5 + 0.25 + 0.125), nothing at the end of time, and undiscounted three times -1."""
    found = rewards.absorbing_return(torch.tensor([2.0, 2.0, -4.0]), torch.tensor([3, 0, 1]), 0.5)
    assert found.tolist() == [1.75, 0.0, -2.0]
    assert found.dtype == torch.float32
    assert rewards.absorbing_return(torch.tensor(-1.0), torch.tensor([3, 91]), 1.0).tolist() == [-3.0, -91.0]


@pytest.mark.parametrize("gamma", [0.3, 0.98, 0.999999])
def test_the_absorbing_return_is_the_sum_written_out(gamma):
    remaining = torch.arange(91)
    expected = [1.5 * math.fsum(gamma**k for k in range(1, n + 1)) for n in range(91)]
    found = rewards.absorbing_return(torch.tensor(1.5, dtype=torch.float64), remaining, gamma)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
