"""Convolutions that can not be: refused with the layer's name, what came and what was expected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from sparsekd.nn import Conv1d, Conv2d
from sparsekd.spec import Fp32, Int8

BAD_SIZES = [
    ({"kernel_size": 0}, r"kernel_size: 0, expected 1\.\.1024"),
    ({"kernel_size": -3}, r"kernel_size: -3, expected 1\.\.1024"),
    ({"kernel_size": 2000}, r"kernel_size: 2000, expected 1\.\.1024"),
    ({"stride": 0}, r"stride: 0, expected 1\.\."),
    ({"stride": (1, -1)}, r"stride: -1, expected 1\.\."),
    ({"dilation": 0}, r"dilation: 0, expected 1\.\."),
    ({"padding": -1}, r"padding: -1, expected 0\.\."),
    ({"padding": 2**40}, "padding: 1099511627776, expected at most"),
    ({"groups": 0}, r"groups: 0, expected 1\.\."),
    ({"groups": 3}, "groups: 3 does not divide 4 in and 8 out channels"),
    ({"in_channels": -4}, r"in_channels: -4, expected 1\.\."),
    ({"out_channels": 0}, r"out_channels: 0, expected 1\.\."),
]


@pytest.mark.parametrize(("changes", "words"), BAD_SIZES)
def test_absurd_geometry_names_the_layer(changes: dict[str, Any], words: str) -> None:
    sizes: dict[str, Any] = {"in_channels": 4, "out_channels": 8, "kernel_size": 3, **changes}
    with pytest.raises(ValueError, match=f"^Conv2d: {words}"):
        Conv2d(**sizes, scheme=Int8(), kernel="dense")


def test_a_converted_layer_is_named_by_its_place() -> None:
    module = nn.Conv2d(4, 8, 3)
    module.stride = (0, 1)
    with pytest.raises(ValueError, match=r"^layer 'body\.conv': Conv2d: stride: 0, expected 1"):
        Conv2d.from_float(module, scheme=Int8(), kernel="dense", name="body.conv")


@pytest.mark.parametrize("scheme", [Int8(), Fp32(16)], ids=["int8", "fp32"])
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 5, 8, 8), r"shape \(1, 5, 8, 8\), expected \(\[batch,\] 4, height, width\)"),
        ((4,), r"shape \(4,\), expected"),
        ((1, 4, 2, 8), r"shape \(1, 4, 2, 8\) with kernel_size=\(3, 3\).*would be empty"),
        ((1, 4, 0, 8), r"shape \(1, 4, 0, 8\).*would be empty"),
    ],
)
def test_images_that_do_not_fit(shape: tuple[int, ...], words: str, scheme: Int8 | Fp32) -> None:
    layer = Conv2d.from_float(nn.Conv2d(4, 8, 3), scheme=scheme)
    with pytest.raises(ValueError, match=rf"^Conv2d\(4, 8\): input of {words}"):
        layer(torch.zeros(shape))


def test_an_output_whose_bytes_pass_63_bits() -> None:
    """2^9 images of 2^20 channels and (2^21 - 1)^2 pixels; nothing of that size is allocated."""
    words = r"^Conv2d\(1, 1048576\): an output of shape \(512, 1048576, 2097151, 2097151\)"
    layer = Conv2d(1, 2**20, 1, padding=2**20 - 1, scheme=Int8(), kernel="dense")
    for x in (torch.zeros(2**9, 1, 1, 1), torch.zeros(1, 1, 1, 1).expand(2**9, 1, 1, 1)):
        with pytest.raises(ValueError, match=words):
            layer(x)
    packed = Conv2d.from_float(  # with a handle that is called directly
        nn.Conv2d(1, 2**12, 1, padding=2**20 - 1), scheme=Int8(), kernel="dense"
    )
    with pytest.raises(ValueError, match=r"^Conv2d\(1, 4096\): an output of shape"):
        packed(torch.zeros(2**9, 1, 1, 1))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, pytest.raises(ValueError, match=words):
        layer(mode.from_tensor(torch.zeros(2**9, 1, 1, 1)))


def test_conv1d_is_named_too() -> None:
    layer = Conv1d.from_float(nn.Conv1d(4, 8, 3), scheme=Int8(), kernel="dense")
    with pytest.raises(ValueError, match=r"^Conv1d\(4, 8\): input of shape \(1, 5, 8\), expected"):
        layer(torch.zeros(1, 5, 8))
    with pytest.raises(ValueError, match=r"^Conv1d: stride: 0, expected 1"):
        Conv1d(4, 8, 3, stride=0, scheme=Int8(), kernel="dense")
