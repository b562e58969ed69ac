"""What the quickstart trains: a model and its settings for each name, and nothing of the flow."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from sparsekd.bench.peers import dynamic_int8
from sparsekd.quickstart.data import CLASSES, PIXELS
from sparsekd.quickstart.rivals import static_int8

__all__ = ["RECIPES", "Recipe", "cnn", "mlp"]


@dataclass(frozen=True)
class Recipe:
    """A classifier of the digits and how it is trained and compressed.

    Attributes:
        summary: what it is, in a few words.
        build: a width to the float model.
        images: it takes images [n, 1, 8, 8] rather than rows of 64 pixels.
        width, teacher_width: of the student and of the teacher.
        epochs: passes over the training images for each student.
        float_share: the part of them, 0..1, that the compressed student makes in float. A model
            with BatchNorm needs them: folding takes its statistics as they are by then.
        pattern: which weights are kept in the layers named by ``pruned``.
        batch_size: images a training step.
        rival: torch's own int8 for such a model: what it is called, and what makes it out of a
            float model and training images.
        note: what has to be known to read the figures.
    """

    summary: str
    build: Callable[[int], nn.Module]
    images: bool
    width: int
    teacher_width: int
    epochs: int
    float_share: float
    pattern: str
    pruned: tuple[str, ...]
    rival: tuple[str, Callable[[nn.Module, Tensor], nn.Module]]
    batch_size: int = 128
    note: str = ""

    @property
    def teacher_epochs(self) -> int:
        """The teacher learns faster, and each of its passes costs two to four times as much."""
        return max(1, self.epochs // 2)

    @property
    def float_epochs(self) -> int:
        """Of the compressed student's epochs, the first ones."""
        return int(self.epochs * self.float_share)


def mlp(hidden: int) -> nn.Sequential:
    """A classifier of digits: 64 pixels, two hidden layers, 10 classes."""
    return nn.Sequential(
        nn.Linear(PIXELS, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, CLASSES),
    )


def cnn(channels: int) -> nn.Sequential:
    """A classifier of digits: four 3x3 convolutions, each with BatchNorm, from 8x8 down to 4x4."""

    def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
        layers = {
            "conv": nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            "norm": nn.BatchNorm2d(outputs),
            "act": nn.ReLU(),
        }
        return nn.Sequential(OrderedDict(layers))

    first = max(1, channels // 2)
    layers = {
        "stem": block(1, first),
        "down": block(first, channels, stride=2),
        "body1": block(channels, channels),
        "body2": block(channels, channels),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "head": nn.Linear(channels, CLASSES),
    }
    return nn.Sequential(OrderedDict(layers))


RECIPES: Mapping[str, Recipe] = {
    "mlp": Recipe(
        summary="three Linear layers on 64 pixels",
        build=mlp,
        images=False,
        width=1024,
        teacher_width=2048,
        epochs=20,
        float_share=0.0,
        pattern="4:32",
        pruned=("2",),  # the first and last layers are too small for pruning to pay
        rival=("torch dynamic int8", lambda model, images: dynamic_int8(model)),
    ),
    "cnn": Recipe(
        summary="four 3x3 convolutions with BatchNorm on 8x8 images",
        build=cnn,
        images=True,
        width=128,
        teacher_width=192,
        epochs=16,
        float_share=0.75,
        pattern="4:32",
        pruned=("down.conv", "body?.conv"),
        rival=("torch static int8", static_int8),
        note="images in channels_last; BatchNorm folded into the weights on every runtime",
    ),
}
