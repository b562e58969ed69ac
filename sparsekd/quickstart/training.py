"""How a small, sparse, int8 student is made: plain torch, and a line of sparsekd for each step.

This is the part to copy. The loop is your own: the distiller is a loss, fake quantization sits
inside the model, and the pruner takes its step after the optimizer's.
"""

# mypy: disallow-untyped-calls=False
# torch leaves Tensor.backward and Tensor.split untyped.

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsekd as skd
from sparsekd.quickstart.data import Digits
from sparsekd.quickstart.recipe import Recipe

__all__ = ["Trainer", "correct"]

# Temperature 2 against 4, on images cut out of the training part (four splits): 1444 and 1439 of
# 1508 correct, 1451 without a teacher. The task is too easy for distillation to show a gain.
LOSSES: list[skd.distill.Loss | str] = [
    skd.distill.SoftTarget(temperature=2.0),
    skd.distill.HardLabels(),
]


def correct(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How many images the model puts in the right class."""
    model.eval()
    with torch.inference_mode():
        return int((model(images).argmax(1) == labels).sum())


class Trainer:
    """Trains the models of one seed; each starts from that seed and sees the same batches.

    Args:
        on_step: called after each training step.
    """

    def __init__(
        self,
        digits: Digits,
        recipe: Recipe,
        seed: int,
        on_step: Callable[[], object] = lambda: None,
    ) -> None:
        self.digits = digits
        self.recipe = recipe
        self.seed = seed
        self.on_step = on_step

    def teacher(self) -> nn.Module:
        """The wide model, on hard labels."""
        model = self._fresh(self.recipe.teacher_width)
        self._fit(model, _on_labels(model), self.recipe.teacher_epochs)
        return model

    def labels_only(self) -> nn.Module:
        """The student without a teacher."""
        student = self._fresh(self.recipe.width)
        self._fit(student, _on_labels(student), self.recipe.epochs)
        return student

    def distilled(self, teacher: nn.Module) -> nn.Module:
        """The student that learns from the teacher's answers as well."""
        student = self._fresh(self.recipe.width)
        distiller = skd.distill.Distiller(student, teacher, losses=LOSSES)
        self._fit(student, distiller, self.recipe.epochs)
        return student

    def compressed(self, teacher: nn.Module) -> nn.Module:
        """The same in as many epochs, pruned step by step, the last of them fake-quantized.

        ``prepare_`` folds BatchNorm, whose running statistics come from the epochs before it, and
        makes parameters doing so: the optimizer comes after it.
        """
        recipe = self.recipe
        student = self._fresh(recipe.width)
        distiller = skd.distill.Distiller(student, teacher, losses=LOSSES)
        steps = self.steps(recipe.epochs)
        pruner = skd.prune.Pruner(
            student,
            recipe.pattern,
            schedule=skd.prune.Cubic(begin=steps // 5, end=steps * 7 // 10),
            include=recipe.pruned,
        )
        self._fit(student, distiller, recipe.float_epochs, after_step=pruner.step)
        skd.quantize.prepare_(student, skd.quantize.Int8())
        quantized_epochs = recipe.epochs - recipe.float_epochs
        self._fit(student, distiller, quantized_epochs, after_step=pruner.step)
        pruner.finalize()
        return student

    def steps(self, epochs: int) -> int:
        """Training steps in that many passes over the images."""
        return epochs * math.ceil(len(self.digits.train_labels) / self.recipe.batch_size)

    def _fresh(self, width: int) -> nn.Module:
        torch.manual_seed(self.seed)
        return self.recipe.build(width)

    def _fit(
        self,
        model: nn.Module,
        loss_of: Callable[[tuple[Tensor, Tensor]], Tensor],
        epochs: int,
        after_step: Callable[[], object] = lambda: None,
    ) -> None:
        """A loop as anyone would write it."""
        images, labels = self.digits.train_images, self.digits.train_labels
        shuffle = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps(epochs))
        model.train()
        for _ in range(epochs):
            order = torch.randperm(len(labels), generator=shuffle)
            for batch in order.split(self.recipe.batch_size):
                loss = loss_of((images[batch], labels[batch]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                decay.step()
                after_step()
                self.on_step()
        model.eval()


def _on_labels(model: nn.Module) -> Callable[[tuple[Tensor, Tensor]], Tensor]:
    return lambda batch: F.cross_entropy(model(batch[0]), batch[1])
