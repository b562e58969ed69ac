"""``bench/image_ops.py``: what it times side by side computes the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from sparsekd.images import dequantize_affine

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "image_ops.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="needs the source tree")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_image_ops", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.inference_mode()
def test_pools_give_what_torch_gives(script: ModuleType) -> None:
    for title, (shape, u8, ours, theirs) in script.pools().items():
        for layout in (torch.channels_last, torch.contiguous_format):
            for x in script.images(shape, layout):
                torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
        x = script.images(shape, None)[0]
        scales = script.U8 if "maximum" in title else script.OUT  # a maximum keeps its scale
        expected = theirs(dequantize_affine(x, *script.U8)).clamp(
            *dequantize_affine(torch.tensor([0, 255], dtype=torch.uint8), *scales).tolist()
        )
        got = dequantize_affine(u8(x), *scales)
        assert float((got - expected).abs().max()) <= 0.51 * scales[0]


@torch.inference_mode()
def test_a_residual_is_the_sum_after_it(script: ModuleType) -> None:
    torch.manual_seed(0)
    calls = script.with_residual((64, 32), 5, "8:32")
    fused, after = (calls[name](0) for name in ("u8 residual", "alone, then add"))
    values = [dequantize_affine(y, *script.OUT) for y in (fused, after)]
    # The sum after it rounds the convolution to bytes first, which also clamps.
    inside = (calls["alone"](0) > 0) & (calls["alone"](0) < 255)
    assert inside.float().mean() > 0.5
    near = (values[0] - values[1]).abs() <= 1.01 * script.OUT[0]
    assert bool(near[inside].all())
    assert calls["fp32 residual"](0).dtype is torch.uint8
