"""The shipped digits are the published ones, and their split is fixed and stratified."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import pytest
import torch

from sparsekd.quickstart.data import load_digits, read_digits

SHA256_OF_VALUES = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
PER_CLASS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_file_holds_the_published_values() -> None:
    images, labels = read_digits()
    assert images.shape == (1797, 8, 8)
    assert images.dtype == labels.dtype == torch.uint8
    assert labels.bincount().tolist() == PER_CLASS
    assert (int(images.min()), int(images.max())) == (0, 16)
    content = images.numpy().tobytes() + labels.numpy().tobytes()
    assert hashlib.sha256(content).hexdigest() == SHA256_OF_VALUES


def test_file_is_small_and_attributed() -> None:
    folder = files("sparsekd.quickstart")
    assert len(folder.joinpath("digits.npz").read_bytes()) < 60_000
    attribution = folder.joinpath("ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "Alpaydin" in attribution
    assert "CC BY 4.0" in attribution


def test_split_is_stratified_complete_and_fixed() -> None:
    digits, again, other = load_digits(), load_digits(), load_digits(seed=1)
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    expected = [round(0.3 * count) for count in PER_CLASS]
    assert digits.test_labels.bincount().tolist() == expected
    assert torch.equal(digits.test_images, again.test_images)
    assert not torch.equal(digits.test_images, other.test_images)
    assert digits.train_images.dtype == torch.float32
    assert float(digits.train_images.max()) == 1.0


def test_no_image_is_on_both_sides() -> None:
    """Among images that occur once in the file, none is in train and in test."""
    digits = load_digits()
    train = {row.numpy().tobytes() for row in digits.train_images}
    shared = [row for row in digits.test_images if row.numpy().tobytes() in train]
    images, _ = read_digits()
    assert len(shared) <= 1797 - len(images.reshape(-1, 64).unique(dim=0))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_bad_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="test_share must lie between 0 and 1"):
        load_digits(share)
