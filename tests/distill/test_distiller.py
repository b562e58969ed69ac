"""Distiller: what it runs, what it asks of a batch, and that the teacher is left alone."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsekd.distill import Distiller, HardLabels, LinearDecay, SoftTarget, soft_target


class Counted(nn.Module):
    """A classifier that counts its calls and has what eval mode changes."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(hidden, 3)
        self.calls = 0
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.modes.append((self.training, torch.is_grad_enabled()))
        logits: torch.Tensor = self.head(self.drop(self.body(inputs)))
        return logits


@pytest.fixture
def pair() -> tuple[nn.Module, Counted]:
    torch.manual_seed(0)
    return nn.Linear(6, 3), Counted()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])


def test_the_loss_is_the_weighted_sum_of_its_parts(pair, batch):
    student, teacher = pair
    distiller = Distiller(student, teacher, [SoftTarget(3.0, weight=0.7), HardLabels(weight=0.2)])
    loss = distiller(batch)
    with torch.no_grad():
        soft = soft_target(student(batch[0]), teacher.eval()(batch[0]), 3.0)
        hard = F.cross_entropy(student(batch[0]), batch[1])
    torch.testing.assert_close(loss.detach(), 0.7 * soft + 0.2 * hard)
    expected = {"soft_target": soft.item(), "hard_labels": hard.item(), "total": loss.item()}
    assert distiller.last == pytest.approx(expected)
    assert torch.equal(distiller.outputs, student(batch[0]))
    loss.backward()
    assert student.weight.grad.abs().sum() > 0


def test_the_teacher_is_never_trained_and_keeps_its_modes(pair, batch):
    student, teacher = pair
    teacher.train()
    teacher.drop.eval()
    before = copy.deepcopy(teacher.state_dict())
    Distiller(student, teacher)(batch).backward()
    assert teacher.modes == [(False, False)]
    assert (teacher.training, teacher.drop.training) == (True, False)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    after = teacher.state_dict()  # BatchNorm's running statistics too
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_modes_come_back_when_the_teacher_fails(pair, batch):
    student, teacher = pair
    teacher.head = nn.Linear(7, 3)
    with pytest.raises(RuntimeError):
        Distiller(student, teacher.train())(batch)
    assert teacher.training


def test_the_teacher_is_part_of_nothing_that_is_saved(pair, batch):
    student, teacher = pair
    keys = sorted(student.state_dict())
    distiller = Distiller(student, teacher)
    distiller(batch)
    assert sorted(student.state_dict()) == keys
    assert not isinstance(distiller, nn.Module)
    holder = nn.Module()
    holder.student, holder.distiller = student, distiller
    assert sorted(holder.state_dict()) == [f"student.{key}" for key in keys]


def test_a_loss_of_weight_zero_is_skipped_and_the_teacher_with_it(pair, batch):
    student, teacher = pair
    soft = SoftTarget(weight=LinearDecay(1.0, 0.0, steps=2))
    distiller = Distiller(student, teacher, [soft, HardLabels()])
    calls = []
    for _ in range(4):
        distiller(batch)
        calls.append((teacher.calls, "soft_target" in distiller.last))
    assert calls == [(1, True), (2, True), (2, False), (2, False)]
    assert distiller.last["total"] == distiller.last["hard_labels"]


def test_all_weights_at_zero_is_an_error(pair, batch):
    distiller = Distiller(*pair, [HardLabels(weight=LinearDecay(1.0, 0.0, steps=1))])
    distiller(batch)
    with pytest.raises(RuntimeError, match="every loss has weight 0 at step 1"):
        distiller(batch)


def test_steps_are_counted_in_training_only_and_can_be_resumed(pair, batch):
    student, teacher = pair
    losses = [SoftTarget(weight=LinearDecay(1.0, 0.0, steps=4)), HardLabels()]
    distiller = Distiller(student, teacher, losses)
    for _ in range(3):
        distiller(batch)
    with torch.no_grad():
        distiller(batch)
    assert distiller.state_dict() == {"step": 3}
    resumed = Distiller(student, teacher, losses)
    resumed.load_state_dict(distiller.state_dict())
    assert torch.equal(resumed(batch), distiller(batch))
    with pytest.raises(ValueError, match=r"keys \['epoch'\], expected \['step'\]"):
        resumed.load_state_dict({"epoch": 1})


# --- batches and outputs ------------------------------------------------------------------------


def test_the_forms_of_a_batch(pair, batch):
    student, teacher = pair
    inputs, labels = batch
    both = Distiller(student, teacher)
    assert torch.equal(both((inputs, labels)), both([inputs, labels]))
    soft = Distiller(student, teacher, ["soft_target"])
    soft(inputs)
    expected = soft.last["total"]
    for same in ((inputs, labels), [inputs]):
        soft(same)
        assert soft.last["total"] == expected

    class Named(nn.Module):
        def forward(self, *, pixels: torch.Tensor, scale: float) -> object:
            return SimpleNamespace(logits=student(pixels) * scale)

    named = Distiller(Named(), Named(), ["hard_labels"])
    loss = named({"pixels": inputs, "scale": 1.0, "labels": labels})
    torch.testing.assert_close(loss, F.cross_entropy(student(inputs), labels))
    assert isinstance(named.outputs, SimpleNamespace)


def test_logits_out_of_what_a_model_returns(pair, batch):
    student, teacher = pair

    class Wrapped(nn.Module):
        def __init__(self, make) -> None:
            super().__init__()
            self.make = make

        def forward(self, x):
            return self.make(student(x))

    plain = Distiller(student, teacher, ["hard_labels"])(batch)
    as_key = Wrapped(lambda y: {"logits": y})
    assert torch.equal(Distiller(as_key, teacher, ["hard_labels"])(batch), plain)
    pairs = Wrapped(lambda y: (y, None))
    chosen = Distiller(pairs, teacher, ["hard_labels"], logits=lambda out: out[0])
    assert torch.equal(chosen(batch), plain)
    with pytest.raises(ValueError, match="returned tuple, expected a tensor of logits"):
        Distiller(pairs, teacher, ["hard_labels"])(batch)


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (7, TypeError, "a batch is a tensor, a pair .* got int"),
        ((torch.zeros(1, 6),) * 3, ValueError, "got tuple of 3"),
        ([], ValueError, "got list of 0"),
        (torch.zeros(2, 6), ValueError, "HardLabels needs labels, but the batch has none"),
    ],
)
def test_batches_that_do_not_fit(pair, bad, kind, message):
    with pytest.raises(kind, match=message):
        Distiller(*pair)(bad)


def test_a_model_can_not_teach_itself(pair, batch):
    student, _ = pair
    with pytest.raises(ValueError, match=r"the same Linear.*pass copy\.deepcopy\(model\)"):
        Distiller(student, student)
    Distiller(student, copy.deepcopy(student))(batch).backward()


def test_losses_are_checked_when_given(pair):
    with pytest.raises(
        ValueError, match="unknown loss 'kl'; choices are: soft_target, hard_labels"
    ):
        Distiller(*pair, ["kl"])
    with pytest.raises(ValueError, match="needs losses, each once"):
        Distiller(*pair, [])
    with pytest.raises(ValueError, match="needs losses, each once"):
        Distiller(*pair, [SoftTarget(2.0), SoftTarget(4.0)])
