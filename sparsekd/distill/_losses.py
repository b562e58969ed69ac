"""Losses of distillation: frozen dataclasses over pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor
from torch.nn import functional as F

from sparsekd.distill._schedules import WeightSchedule, schedule_from

__all__ = ["HardLabels", "Loss", "SoftTarget", "soft_target"]


class Loss(Protocol):
    """One term of the sum that a student is trained on.

    ``name`` is its key in ``Distiller.last``; a loss whose weight is 0 at a step is not computed,
    and the teacher runs only when a loss that is computed needs it.
    """

    name: ClassVar[str]
    needs_teacher: ClassVar[bool]

    def weight_at(self, step: int) -> float: ...

    def __call__(self, student: Any, teacher: Any, labels: Tensor | None) -> Tensor: ...


def soft_target(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of the softened class probabilities, times temperature^2.

    The factor keeps the gradient's size independent of the temperature (Hinton, Vinyals & Dean,
    "Distilling the Knowledge in a Neural Network", 2015, section 2).

    Args:
        student, teacher: logits [..., classes] of the same shape, float.
        temperature: above 0; higher is softer.

    Returns:
        The mean over all leading positions, a 0-d tensor.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"SoftTarget: student logits {tuple(student.shape)}, teacher logits "
            f"{tuple(teacher.shape)}; expected the same shape"
        )
    classes = student.shape[-1]
    log_student = F.log_softmax(student.reshape(-1, classes) / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.reshape(-1, classes) / temperature, dim=-1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


@dataclass(frozen=True)
class SoftTarget:
    """The teacher's softened class probabilities; see :func:`soft_target`.

    >>> SoftTarget(temperature=4.0, weight=LinearDecay(1.0, 0.0, steps=1000))
    """

    temperature: float = 4.0
    weight: float | WeightSchedule = 1.0

    name: ClassVar[str] = "soft_target"
    needs_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0.0):
            raise ValueError(f"SoftTarget: temperature {self.temperature!r}, expected above 0")
        schedule_from(self.weight)

    def weight_at(self, step: int) -> float:
        return schedule_from(self.weight)(step)

    def __call__(self, student: Any, teacher: Any, labels: Tensor | None) -> Tensor:
        return soft_target(student, teacher, self.temperature)


@dataclass(frozen=True)
class HardLabels:
    """Cross entropy with the labels of the batch, the mean over all positions.

    The student's logits are [..., classes], as for :class:`SoftTarget` (``cross_entropy`` itself
    wants the classes of sequences and images in the second dimension). Labels are integers [...],
    where -100 leaves a position out, or probabilities [..., classes].

    Attributes:
        label_smoothing: as in ``torch.nn.functional.cross_entropy``.
    """

    weight: float | WeightSchedule = 1.0
    label_smoothing: float = 0.0

    name: ClassVar[str] = "hard_labels"
    needs_teacher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise ValueError(f"HardLabels: label_smoothing {self.label_smoothing!r}, expected 0..1")
        schedule_from(self.weight)

    def weight_at(self, step: int) -> float:
        return schedule_from(self.weight)(step)

    def __call__(self, student: Any, teacher: Any, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ValueError(
                "HardLabels needs labels, but the batch has none: pass (inputs, labels) or a dict "
                "with the key 'labels'"
            )
        classes = student.shape[-1]
        if labels.is_floating_point() and labels.shape == student.shape:
            flat = labels.reshape(-1, classes)
        elif not labels.is_floating_point() and labels.shape == student.shape[:-1]:
            flat = labels.reshape(-1).long()
        else:
            raise ValueError(
                f"HardLabels: labels of {labels.dtype} and shape {tuple(labels.shape)} for logits "
                f"of shape {tuple(student.shape)}; expected integers of shape "
                f"{tuple(student.shape[:-1])} or probabilities of shape {tuple(student.shape)}; "
                "the classes are the last dimension (Distiller's logits= can move them there)"
            )
        flat_student = student.reshape(-1, classes)
        return F.cross_entropy(flat_student, flat, label_smoothing=self.label_smoothing)
