"""Losses against their formulas, and schedules of their weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from sparsekd.distill import (
    Constant,
    CosineDecay,
    HardLabels,
    LinearDecay,
    SoftTarget,
    soft_target,
)


def logits(rows: int = 4, classes: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, rows, classes, dtype=torch.float64, generator=generator) * 3
    return student.requires_grad_(), teacher


def by_hand(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """T^2 / rows * sum p log(p / q), from the definition of softmax."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p = np.exp(t / temperature) / np.exp(t / temperature).sum()
        q = np.exp(s / temperature) / np.exp(s / temperature).sum()
        total += float((p * np.log(p / q)).sum())
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_soft_target_is_the_formula(temperature):
    student, teacher = logits()
    expected = by_hand(student.detach().numpy(), teacher.numpy(), temperature)
    assert soft_target(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-10)
    assert SoftTarget(temperature)(student, teacher, None).item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_its_gradient_is_t_times_the_difference_of_probabilities(temperature):
    student, teacher = logits()
    soft_target(student, teacher, temperature).backward()
    difference = (student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)
    torch.testing.assert_close(student.grad, temperature * difference.detach() / len(student))


def test_t_squared_keeps_the_size_of_the_gradient():
    sizes = []
    for temperature in (20.0, 80.0, 320.0):
        student, teacher = logits()
        soft_target(student, teacher, temperature).backward()
        sizes.append(student.grad.norm().item())
    assert max(sizes) / min(sizes) < 1.1  # without the factor: 256 times
    # the limit of Hinton et al. 2015, equation 4: (z - v) / classes for centred logits
    student, teacher = (z - z.mean(-1, keepdim=True) for z in logits())
    limit = ((student - teacher) / student.shape[-1] / len(student)).norm().item()
    assert sizes[-1] == pytest.approx(limit, rel=0.02)


def test_equal_logits_cost_nothing_and_a_shift_does_not_matter():
    student, teacher = logits()
    assert soft_target(teacher, teacher, 4.0).item() == pytest.approx(0.0, abs=1e-12)
    shifted = soft_target(student + 5.0, teacher - 2.0, 4.0)
    torch.testing.assert_close(shifted, soft_target(student, teacher, 4.0))


def test_leading_positions_are_averaged_alike():
    student, teacher = logits(rows=6)
    flat = soft_target(student, teacher, 2.0)
    folded = soft_target(student.view(2, 3, 7), teacher.view(2, 3, 7), 2.0)
    torch.testing.assert_close(flat, folded)


def test_soft_target_errors():
    with pytest.raises(ValueError, match=r"student logits \(2, 3\), teacher logits \(2, 4\)"):
        soft_target(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"temperature .* expected above 0"):
            SoftTarget(temperature)


def test_hard_labels_are_cross_entropy():
    student, _ = logits()
    labels = torch.tensor([0, 6, 2, 2])
    expected = F.cross_entropy(student, labels, label_smoothing=0.1)
    assert torch.equal(HardLabels(label_smoothing=0.1)(student, None, labels), expected)
    with pytest.raises(ValueError, match=r"label_smoothing 1\.5, expected 0\.\.1"):
        HardLabels(label_smoothing=1.5)


def test_hard_labels_of_sequences_have_their_classes_last():
    student = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(7, (2, 5))
    labels[1, 3:] = -100  # padding
    loss = HardLabels(label_smoothing=0.1)(student, None, labels)
    expected = F.cross_entropy(student.movedim(-1, 1), labels, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, student)
    assert not gradient[1, 3:].any()
    assert gradient[0].any()
    assert torch.equal(
        HardLabels()(student, None, labels.int()), HardLabels()(student, None, labels)
    )


def test_hard_labels_may_be_probabilities():
    student, teacher = logits(rows=6)
    soft = teacher.softmax(-1)
    flat = HardLabels()(student, None, soft)
    torch.testing.assert_close(flat, F.cross_entropy(student, soft))
    torch.testing.assert_close(HardLabels()(student.view(2, 3, 7), None, soft.view(2, 3, 7)), flat)


@pytest.mark.parametrize(
    ("labels", "came"),
    [
        (torch.zeros(2, 7, dtype=torch.long), r"torch.int64 and shape \(2, 7\)"),
        (torch.zeros(2, 5), r"torch.float32 and shape \(2, 5\)"),
        (torch.zeros(2, 5, 7, dtype=torch.long), r"torch.int64 and shape \(2, 5, 7\)"),
        (torch.zeros(10, dtype=torch.long), r"torch.int64 and shape \(10,\)"),
    ],
    ids=str,
)
def test_labels_that_do_not_fit_are_one_clear_sentence(labels, came):
    expected = r"expected integers of shape \(2, 5\) or probabilities of shape \(2, 5, 7\)"
    with pytest.raises(ValueError, match=f"HardLabels: labels of {came} for logits .*{expected}"):
        HardLabels()(torch.zeros(2, 5, 7), None, labels)


# --- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(0.3), {0: 0.3, 1000: 0.3}),
        (LinearDecay(1.0, 0.0, steps=100), {0: 1.0, 25: 0.75, 100: 0.0, 500: 0.0}),
        (LinearDecay(0.0, 2.0, steps=4), {0: 0.0, 1: 0.5, 4: 2.0}),
        (CosineDecay(1.0, 0.0, steps=100), {0: 1.0, 50: 0.5, 100: 0.0, 101: 0.0}),
        (CosineDecay(2.0, 1.0, steps=3), {0: 2.0, 1: 1.75, 2: 1.25, 3: 1.0}),
    ],
)
def test_schedules_at_known_steps(schedule, values):
    for step, value in values.items():
        assert schedule(step) == pytest.approx(value, abs=1e-12)
    assert SoftTarget(weight=schedule).weight_at(0) == pytest.approx(values[0])


@given(
    kind=st.sampled_from([LinearDecay, CosineDecay]),
    start=st.floats(0, 100),
    end=st.floats(0, 100),
    steps=st.integers(1, 300),
)
def test_decays_stay_between_their_ends_and_arrive(kind, start, end, steps):
    schedule = kind(start, end, steps)
    values = [schedule(step) for step in range(steps + 2)]
    slack = 1e-12 * max(start, end, 1.0)
    assert all(min(start, end) - slack <= value <= max(start, end) + slack for value in values)
    assert values[-2:] == [end, end]  # exactly, so that a weight of zero is seen as zero


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weights_must_be_finite_and_not_negative(weight):
    for make in (Constant, LinearDecay, CosineDecay, lambda w: HardLabels(weight=w)):
        with pytest.raises(ValueError, match="a loss weight must be a finite number of at least 0"):
            make(weight)


def test_a_decay_needs_a_step():
    with pytest.raises(ValueError, match="a schedule needs at least 1 step, got 0"):
        LinearDecay(1.0, 0.0, steps=0)
