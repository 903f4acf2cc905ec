import math

import pytest
import torch

from gail import rewards
from sim.kernels import Event

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
    ],
)
def test_forms_are_their_closed_forms(form, closed):
    found = rewards.FORMS[form](torch.tensor(LOGITS, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([closed(f) for f in LOGITS], dtype=torch.float64))


def test_forms_in_terms_of_the_probability_of_expert():
    d = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    by_hand = {"logit": d.log() - (1 - d).log(), "gail": -(1 - d).log(), "airl": d.log(), "bounded": d - 0.5}
    assert by_hand.keys() == rewards.FORMS.keys()
    for form, expected in by_hand.items():
        torch.testing.assert_close(rewards.FORMS[form](d.logit()), expected)


def test_events_are_paid_as_told():
    """Arriving pays once, two contacts in a step count as one, and each step in contact or off the road counts."""
    rows = [
        ([], False, 0.0),
        ([Event.GOAL], False, 5.0),
        ([Event.GOAL], True, 0.0),
        ([Event.VEHICLE], False, -2.0),
        ([Event.NON_VEHICLE], False, -2.0),
        ([Event.VEHICLE, Event.NON_VEHICLE], False, -2.0),
        ([Event.OFF_ROAD], False, -0.5),
        ([Event.GOAL, Event.VEHICLE, Event.OFF_ROAD], False, 2.5),
    ]
    events = torch.tensor([[event in happened for event in Event] for happened, _, _ in rows])
    was_at_goal = torch.tensor([was for _, was, _ in rows])
    paid = rewards.event_reward(events, was_at_goal, goal=5.0, collision=-2.0, off_road=-0.5)
    assert paid.tolist() == [reward for _, _, reward in rows]
