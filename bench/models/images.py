"""Image classifiers with random weights: for speed, and for agreement with torch.

Weights that nobody trained cost the same time, and are quantized, pruned and folded in the same
way; accuracy is not meant.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsekd.bench.definitions import ModelDefinition

__all__ = ["image_model", "random_classifier", "random_images"]

NOTE = "random weights: accuracy is not meant, only speed and agreement"
_COPIES = 4  # inputs that the timed calls rotate among


def image_model(
    build: Callable[[], nn.Module], *, stem: str, size: int = 224, batches: tuple[int, ...] = (1, 8)
) -> ModelDefinition:
    """A classifier of square images of ``size`` pixels.

    Args:
        build: gives the float model.
        stem: name of the first convolution, which is not pruned: of the three channels of an image
            no n:32 pattern drops its share.
    """

    def inputs(batch: int) -> list[tuple[Tensor, ...]]:
        return [(random_images(batch, size, seed),) for seed in range(_COPIES)]

    return ModelDefinition(
        build=partial(random_classifier, build, size),
        cases={f"{batch}x3x{size}x{size}": partial(inputs, batch) for batch in batches},
        samples=lambda: [(random_images(4, size, seed),) for seed in range(100, 104)],
        note=NOTE,
        not_pruned=(stem,),
        images=True,
        architecture=build,
    )


def random_images(batch: int, size: int, seed: int) -> Tensor:
    """Noise on three scales, as images have it; fp32 [batch, 3, size, size], about normal."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(batch, 3, size, size)
    for scale in (1, 4, 16):
        small = torch.randn(batch, 3, -(-size // scale), -(-size // scale), generator=generator)
        images += F.interpolate(small, size=(size, size))
    return images / 3**0.5


def random_classifier(build: Callable[[], nn.Module], size: int, seed: int = 0) -> nn.Module:
    """A model in eval mode whose BatchNorm has seen data; the same seed gives the same.

    BatchNorm's weights are drawn as well, so that folding has something to fold; its statistics
    are those of a few batches of random images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
            norm.momentum = None  # a plain mean over the batches
        model.train()
        with torch.no_grad():
            for batch in range(2):
                model(random_images(8, size, 1000 + batch))
        for norm in norms:
            norm.momentum = 0.1
    return model.eval().requires_grad_(False)
