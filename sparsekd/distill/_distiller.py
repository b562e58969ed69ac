"""The sum of losses that a student is trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsekd.batches import split_batch
from sparsekd.distill._losses import HardLabels, Loss, SoftTarget

__all__ = ["Distiller"]

_BY_NAME: dict[str, Callable[[], Loss]] = {
    "soft_target": SoftTarget,
    "hard_labels": HardLabels,
}


class Distiller:
    """A loss that runs the student and, when a loss needs it, the teacher.

    It is no ``nn.Module``: neither model becomes part of the other's ``state_dict``, and moving the
    student does not move the teacher. The teacher runs in eval mode without gradients, and its mode
    is restored after each call.

    Args:
        student: called as ``student(inputs)``, in whatever mode it is.
        teacher: likewise; its parameters are never changed.
        losses: objects such as ``SoftTarget(temperature=4.0)``, or their names.
        logits: takes the logits out of what a model returns; None uses the output itself, or its
            attribute or key ``logits`` where it has one (transformers models).

    A batch is a tensor of inputs; a pair (inputs, labels); or a mapping, whose ``labels`` are taken
    out and whose other entries go to the models as keyword arguments.

    Raises:
        ValueError: no losses, an unknown name, a loss given twice, or one model as both.

    >>> distiller = Distiller(student, teacher, losses=[SoftTarget(4.0), HardLabels()])
    >>> distiller((images, labels)).backward(); distiller.last
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        losses: Sequence[Loss | str] = ("soft_target", "hard_labels"),
        *,
        logits: Callable[[Any], Tensor] | None = None,
    ) -> None:
        if student is teacher:
            raise ValueError(
                f"Distiller: student and teacher are the same {type(student).__name__}, which "
                "would learn from itself; pass copy.deepcopy(model) as the teacher"
            )
        self.student = student
        self.teacher = teacher
        self.losses = [_loss_from(loss) for loss in losses]
        names = [loss.name for loss in self.losses]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"Distiller needs losses, each once; got {names}")
        self._logits = _default_logits if logits is None else logits
        self._step = 0
        #: The unweighted value of each loss that the last call computed, and "total".
        self.last: dict[str, float] = {}
        #: What the student returned in the last call.
        self.outputs: Any = None

    def __call__(self, batch: Any) -> Tensor:
        """The weighted sum of the losses for one batch, a 0-d tensor; counts one step.

        Steps are counted only while gradients are on, so that evaluation does not move schedules.

        Raises:
            TypeError, ValueError: the batch is of another form, has no labels and a loss needs
                them, or shapes do not match.
            RuntimeError: every loss has weight 0 at this step.
        """
        positional, keywords, labels = split_batch(batch)
        weighted = [(loss, loss.weight_at(self._step)) for loss in self.losses]
        active = [(loss, weight) for loss, weight in weighted if weight > 0.0]
        if not active:
            raise RuntimeError(f"every loss has weight 0 at step {self._step}: nothing to train on")
        self.outputs = self.student(*positional, **keywords)
        student = self._logits(self.outputs)
        teacher = None
        if any(loss.needs_teacher for loss, _ in active):
            teacher = self._teach(positional, keywords)
        values = {loss.name: loss(student, teacher, labels) for loss, _ in active}
        total = torch.stack([values[loss.name] * weight for loss, weight in active]).sum()
        self.last = {name: float(value.detach()) for name, value in values.items()}
        self.last["total"] = float(total.detach())
        if torch.is_grad_enabled():
            self._step += 1
        return total

    def state_dict(self) -> dict[str, Any]:
        """The step that the schedules stand at."""
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a saved step."""
        if set(state) != {"step"}:
            raise ValueError(f"distiller state has keys {sorted(state)}, expected ['step']")
        self._step = int(state["step"])

    def _teach(self, positional: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
        modes = [(module, module.training) for module in self.teacher.modules()]
        self.teacher.eval()
        try:
            with torch.no_grad():
                return self._logits(self.teacher(*positional, **keywords))
        finally:
            for module, training in modes:
                module.training = training


def _loss_from(loss: Loss | str) -> Loss:
    if not isinstance(loss, str):
        return loss
    if loss not in _BY_NAME:
        raise ValueError(f"unknown loss {loss!r}; choices are: {', '.join(_BY_NAME)}")
    return _BY_NAME[loss]()


def _default_logits(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    else:
        output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the model returned {type(output).__name__}, expected a tensor of logits or an object "
            "with logits; pass logits= to Distiller"
        )
    return output
