"""Pruner: how the sparsity grows, and that a run can be taken up again."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sparsekd.prune import NM, Constant, Cubic, Pattern, Pruner, Unstructured

# --- schedules ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (9, None),
        (10, 0.0),
        (35, 1 - 0.75**3),
        (60, 0.875),
        (85, 1 - 0.25**3),
        (110, 1.0),
        (999, 1.0),
    ],
)
def test_cubic_is_the_formula_of_zhu_and_gupta(step, share):
    got = Cubic(begin=10, end=110)(step)
    assert got == (None if share is None else pytest.approx(share))


@given(begin=st.integers(0, 50), length=st.integers(0, 200), every=st.integers(1, 20))
def test_cubic_rises_to_one_and_stays(begin, length, every):
    schedule = Cubic(begin, begin + length, every)
    shares = [share for step in range(begin + length + 5) if (share := schedule(step)) is not None]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert all(0.0 <= share <= 1.0 for share in shares)


def test_cubic_updates_only_every_so_often():
    schedule = Cubic(begin=2, end=10, every=4)
    assert [step for step in range(10) if schedule(step) is not None] == [2, 6]


@pytest.mark.parametrize("values", [(5, 4, 1), (-1, 4, 1), (0, 4, 0)])
def test_cubic_refuses_what_makes_no_sense(values):
    with pytest.raises(ValueError, match="0 <= begin <= end and every >= 1, got begin="):
        Cubic(*values)


def test_constant_waits_for_its_step():
    assert [Constant(begin=2)(step) for step in range(4)] == [None, None, 1.0, 1.0]


# --- the pruner ---------------------------------------------------------------------------------


def mlp() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))


def test_n_of_m_goes_down_through_smaller_n_and_is_nested():
    model = mlp()
    pruner = Pruner(model, NM(4, 32), schedule=Cubic(begin=0, end=20), include=["0"])
    kept, before = [], torch.ones(16, 64, dtype=torch.bool)
    for _ in range(22):
        pruner.step()
        counts = model[0].weight_mask.view(16, 2, 32).sum(-1)
        assert (counts == counts[0, 0]).all()
        assert not (model[0].weight_mask & ~before).any()
        before = model[0].weight_mask.clone()
        kept.append(int(counts[0, 0]))
    assert kept[0] == 32
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == 4
    assert len(set(kept)) > 8
    # never ahead of the schedule: n is rounded up
    assert all(n >= 32 - 28 * (1 - (1 - t / 20) ** 3) for t, n in enumerate(kept[:20]))


def test_unstructured_follows_the_schedule_to_the_weight():
    model = mlp()
    pruner = Pruner(model, Unstructured(0.8), schedule=Cubic(0, 10), include=["0"])
    for step in range(11):
        pruner.step()
        share = 1 - (1 - min(step / 10, 1)) ** 3
        assert pruner.report().layers[0].kept == 1024 - round(0.8 * share * 1024)
    assert pruner.sparsity == pytest.approx(0.8, abs=1e-3)


def test_nothing_is_pruned_before_the_first_step_and_all_at_once_by_default():
    model = mlp()
    pruner = Pruner(model, "4:32", include=["0"])
    assert pruner.sparsity == 0.0
    pruner.step()
    assert pruner.sparsity == 1 - 4 / 32


def test_finalize_brings_the_final_pattern_wherever_the_schedule_stands():
    model = mlp()
    pruner = Pruner(model, NM(8, 32), schedule=Cubic(begin=100, end=1000), include=["0"])
    pruner.step()
    report = pruner.finalize()
    assert (model[0].weight_mask.view(16, 2, 32).sum(-1) == 8).all()
    assert report.sparsity == pruner.sparsity == 0.75
    assert ((model[0].weight == 0) == ~model[0].weight_mask).all()


class Run:
    """A training run of float, mask and optimizer state."""

    def __init__(self) -> None:
        self.model = mlp()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-2, weight_decay=0.1)
        schedule = Cubic(begin=2, end=12, every=2)
        self.pruner = Pruner(self.model, NM(4, 16), schedule=schedule, include=["0"])

    def train(self, begin: int, end: int) -> Run:
        for step in range(begin, end):
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(8, 64, generator=generator)
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(x), torch.arange(8) % 4).backward()
            self.optimizer.step()
            self.pruner.step()
        return self

    def state(self) -> dict[str, object]:
        parts = {"model": self.model, "optimizer": self.optimizer, "pruner": self.pruner}
        return copy.deepcopy({name: part.state_dict() for name, part in parts.items()})

    def load(self, state) -> Run:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.pruner.load_state_dict(state["pruner"])
        return self


@pytest.mark.parametrize("stop", [1, 2, 7, 12, 14])
def test_a_resumed_run_ends_in_the_same_bits(stop):
    whole = Run().train(0, 15)
    resumed = Run().load(Run().train(0, stop).state()).train(stop, 15)
    assert whole.pruner.state_dict() == resumed.pruner.state_dict()
    expected, got = whole.model.state_dict(), resumed.model.state_dict()
    assert sorted(expected) == sorted(got)
    for key in expected:
        assert torch.equal(expected[key], got[key]), key
    assert int(expected["0.weight_mask"].sum()) == 16 * 64 // 4


def test_a_foreign_state_is_refused():
    pruner = Pruner(mlp(), NM(4, 32))
    state = pruner.state_dict()
    with pytest.raises(ValueError, match="of pattern 8:32, this pruner's is 4:32"):
        pruner.load_state_dict({**state, "pattern": "8:32"})
    with pytest.raises(ValueError, match=r"keys \['step'\], expected \['pattern', 'step'\]"):
        pruner.load_state_dict({"step": 3})
    assert pruner.state_dict() == state


def test_a_pattern_it_can_not_approach_is_refused_at_once():
    class Rows(Pattern):
        pass

    with pytest.raises(ValueError, match="gradual pruning knows NM and Unstructured, got Rows"):
        Pruner(mlp(), Rows())
    with pytest.raises(ValueError, match="unknown score 'taylor'"):
        Pruner(mlp(), "4:32", score="taylor")
