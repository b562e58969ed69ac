"""The UCI digits: 1,797 real images of 8x8 pixels that travel with the package.

The file's source and licence stand in ATTRIBUTION.md beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

__all__ = ["CLASSES", "PIXELS", "Digits", "load_digits", "read_digits"]

SIDE = 8
PIXELS = SIDE * SIDE
CLASSES = 10
_BRIGHTEST = 16


@dataclass(frozen=True)
class Digits:
    """A stratified split of the digits.

    Attributes:
        train_images, test_images: fp32 [images, 64] or [images, 1, 8, 8], 0..1.
        train_labels, test_labels: int64 [images], 0..9.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def as_images(self) -> Digits:
        """The same as images [images, 1, 8, 8].

        They are channels_last, as what decodes images leaves them: height, width, channels.
        """
        train, test = (
            rows.view(-1, SIDE, SIDE, 1).movedim(-1, 1)
            for rows in (self.train_images, self.test_images)
        )
        return replace(self, train_images=train, test_images=test)


def read_digits() -> tuple[Tensor, Tensor]:
    """The file as it is: images u8 [1797, 8, 8] with values 0..16, and labels u8 [1797].

    >>> images, labels = read_digits()
    """
    source = files("sparsekd.quickstart").joinpath("digits.npz")
    with source.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])


def load_digits(test_share: float = 0.3, seed: int = 0) -> Digits:
    """Split the digits so that every class has the same share in the test part.

    Args:
        test_share: the part held out, more than 0 and less than 1.
        seed: which images are held out; the same seed always gives the same split.

    Raises:
        ValueError: ``test_share`` out of range.

    >>> load_digits().test_images.shape
    torch.Size([539, 64])
    """
    if not 0.0 < test_share < 1.0:
        raise ValueError(f"test_share must lie between 0 and 1, got {test_share!r}")
    raw_images, raw_labels = read_digits()
    images = raw_images.reshape(-1, PIXELS).float() / _BRIGHTEST
    labels = raw_labels.long()
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros_like(labels, dtype=torch.bool)
    for digit in range(CLASSES):
        members = (labels == digit).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=generator)]
        held_out[shuffled[: round(test_share * len(members))]] = True
    return Digits(images[~held_out], labels[~held_out], images[held_out], labels[held_out])
