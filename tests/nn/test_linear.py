"""nn.Linear: construction, conversion from and to torch, reports, refusal to train."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from linear_layers import expected, float_linear, linear, static_linear
from torch import nn

from sparsekd import backend, numerics
from sparsekd import nn as engine
from sparsekd.quantize import prepare_
from sparsekd.spec import NM, Int8

KERNELS = list(backend.KERNELS)


@pytest.mark.parametrize("kernel", KERNELS)
def test_from_float_holds_the_integers_of_numerics(kernel: str) -> None:
    layer = float_linear(sparsity=0.6)
    fast = engine.Linear.from_float(layer, scheme=Int8(), kernel=kernel)
    q, scale = numerics.quantize_weight(layer.weight.detach())
    assert torch.equal(fast.int_weight(), q)
    assert torch.equal(fast.scale, scale)
    assert torch.equal(fast.bias, layer.bias)
    assert torch.equal(fast.weight_dequantized(), q * scale[:, None])
    assert fast.kept() == int((q != 0).sum())
    x = torch.randn(5, 70)
    assert torch.equal(fast(x), expected(fast, x))
    assert (fast(x) - layer(x)).abs().max() < 0.05 * layer(x).abs().max()


def test_buffers_of_windowed() -> None:
    fast = static_linear(130, 37)  # 3 slices of 16 outputs, 3 windows of 64 inputs
    buffers = {key: (b.dtype, tuple(b.shape)) for key, b in fast.named_buffers()}
    steps = fast.values.shape[0]
    assert buffers == {
        "values": (torch.int8, (steps, 16, 4)),
        "positions": (torch.uint8, (steps, 16, 4)),
        "steps": (torch.uint8, (3, 3)),
        "step_ptr": (torch.int64, (4,)),
        "scale": (torch.float32, (37,)),
        "bias": (torch.float32, (37,)),
        "input_scale": (torch.float32, ()),
        "input_zero_point": (torch.int32, ()),
    }
    assert steps == int(fast.step_ptr[-1]) == int(fast.steps.sum())
    assert not list(fast.parameters())
    assert fast.packed_bytes() == 128 * steps + 9 + 4 * 8 + 37 * 8 + 8


def test_buffers_of_dense() -> None:
    fast = linear(70, 37, kernel="dense", bias=False)
    buffers = {key: (b.dtype, tuple(b.shape)) for key, b in fast.named_buffers()}
    assert buffers == {
        "panels": (torch.int8, (3, 18, 16, 4)),
        "scale": (torch.float32, (37,)),
    }
    assert fast.packed_bytes() == 3 * 18 * 64 + 37 * 4


def test_a_new_layer_gives_its_bias() -> None:
    fast = engine.Linear(20, 3)
    assert fast.scheme == Int8()
    assert fast.kept() == 0
    assert torch.equal(fast(torch.randn(2, 20)), torch.zeros(2, 3))
    fast.bias.copy_(torch.tensor([1.0, -2.0, 3.0]))
    assert torch.equal(fast(torch.randn(1, 20)), torch.tensor([[1.0, -2.0, 3.0]]))


def test_instances_share_no_default() -> None:
    assert engine.Linear(2, 2).scale is not engine.Linear(2, 2).scale


def test_from_float_applies_the_mask() -> None:
    layer = float_linear()
    mask = NM(2, 8).mask(layer.weight.abs())
    layer.register_buffer("weight_mask", mask)  # the weight still holds what the mask drops
    fast = engine.Linear.from_float(layer, scheme=Int8())
    assert not fast.int_weight()[~mask].any()


def test_from_float_prefers_the_layers_own_scheme() -> None:
    model = nn.Sequential(float_linear())
    prepare_(model, Int8())
    assert engine.Linear.from_float(model[0]).scheme == Int8()
    static = static_linear()
    assert static.scheme.activations == "static"
    assert 0 < int(static.input_zero_point) < 128


def test_from_float_widens_half_weights() -> None:
    layer = float_linear().to(torch.bfloat16)
    fast = engine.Linear.from_float(layer, scheme=Int8())
    assert fast.scale.dtype is fast.bias.dtype is torch.float32
    assert torch.equal(fast.int_weight(), numerics.quantize_weight(layer.weight.detach())[0])


def test_from_float_keeps_the_mode_and_copies() -> None:
    layer = float_linear().train()
    fast = engine.Linear.from_float(layer, scheme=Int8())
    assert fast.training
    assert not engine.Linear.from_float(layer.eval(), scheme=Int8()).training
    before = fast.bias.clone()
    with torch.no_grad():
        layer.bias.add_(1)
    assert torch.equal(fast.bias, before)


def spoil(value: float) -> nn.Linear:
    layer = float_linear()
    with torch.no_grad():
        layer.weight[4, 5] = value
    return layer


def uncalibrated() -> nn.Module:
    model = nn.Sequential(float_linear())
    prepare_(model, Int8("static"))
    return model[0]


@pytest.mark.parametrize(
    ("layer", "scheme", "message"),
    [
        (float_linear, None, r"layer 'head' is not fake-quantized, so a scheme is needed"),
        (float_linear, Int8("static"), r"layer 'head' has no calibrated input range.*calibrate"),
        (uncalibrated, None, r"layer 'head' has no calibrated input range.*calibrate"),
        (lambda: spoil(float("nan")), Int8(), r"layer 'head': .*output 4 .*NaN or Inf"),
        (lambda: spoil(float("-inf")), Int8(), r"layer 'head': .*output 4 .*NaN or Inf"),
    ],
)
def test_from_float_refuses(layer: Any, scheme: Int8 | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine.Linear.from_float(layer(), scheme=scheme, name="head")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": "csr"}, r"unknown kernel 'csr' for int8.*windowed, dense"),
        ({"activation": "tanh"}, r"unknown activation 'tanh'.*relu.*gelu.*silu"),
        ({"activation": "none"}, r"unknown activation 'none'"),
        ({"in_features": -1}, r"in_features=-1"),
        ({"out_features": -3}, r"out_features=-3"),
    ],
)
def test_constructor_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine.Linear(**{"in_features": 4, "out_features": 5, **arguments})


@pytest.mark.parametrize(
    ("sizes", "kind", "message"),
    [
        ((3.5, 4), TypeError, r"^Linear: in_features: 3\.5, expected an integer$"),
        ((4, "3"), TypeError, "^Linear: out_features: '3', expected an integer$"),
        ((None, 4), TypeError, "^Linear: in_features: None, expected an integer$"),
        ((2**70, 4), ValueError, "^Linear: in_features: 1180.*, expected at most 2147483647$"),
        ((4, 2**31), ValueError, "^Linear: out_features: 2147483648, expected at most 2147483647$"),
        (
            (2**31 - 1, 2**31 - 1),
            MemoryError,
            r"^Linear\(2147483647, 2147483647\): no memory for its weight of 4,611.* numbers$",
        ),
    ],
    ids=str,
)
def test_impossible_sizes_are_one_clear_sentence(
    sizes: tuple[Any, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        engine.Linear(*sizes)


def test_integers_of_numpy_are_sizes() -> None:
    assert repr(engine.Linear(np.int64(4), np.int32(3))) == repr(engine.Linear(4, 3))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_sum_that_could_overflow_is_refused(kernel: str) -> None:
    """|u - zp| <= 128 in the dynamic form: 127 * 128 * inputs has to stay under 2^31."""
    most = (2**31 - 1) // (127 * 128)
    layer = nn.utils.skip_init(nn.Linear, most + 1, 2, bias=False)
    with torch.no_grad():
        layer.weight[0] = 0.0
        layer.weight[1] = 1.0
    with pytest.raises(ValueError, match=r"layer 'wide': weight: .*overflow the 32-bit sum"):
        engine.Linear.from_float(layer, scheme=Int8(), kernel=kernel, name="wide")
    with torch.no_grad():
        layer.weight[1, 0] = 0.0
    fast = engine.Linear.from_float(layer, scheme=Int8(), kernel=kernel)
    x = torch.full((1, most + 1), -1.0)
    for isa in backend.available_isas():
        backend.set_isa(isa)
        assert torch.equal(fast(x), expected(fast, x))
        assert fast(x)[0, 1] == pytest.approx(-most, rel=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_to_float_and_back(kernel: str) -> None:
    fast = linear(kernel=kernel).eval()
    layer = fast.to_float()
    assert type(layer) is nn.Linear
    assert not layer.training
    assert torch.equal(layer.weight, fast.weight_dequantized())
    assert torch.equal(layer.bias, fast.bias)
    assert torch.equal(layer.weight_mask, fast.int_weight() != 0)
    again = engine.Linear.from_float(layer, scheme=Int8(), kernel=kernel)
    assert torch.equal(again.int_weight(), fast.int_weight())
    layer(torch.randn(2, 70)).sum().backward()  # it trains
    assert layer.weight.grad is not None


def test_to_float_draws_no_random_numbers() -> None:
    fast = linear()
    before = torch.get_rng_state()
    with torch.device("meta"):  # nor does it follow the default device: it holds numbers
        layer = fast.to_float()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(layer.weight, fast.weight_dequantized())
    assert layer.weight.requires_grad


def test_to_float_of_a_full_weight_has_no_mask() -> None:
    layer = nn.Linear(20, 3, bias=False)
    nn.init.ones_(layer.weight)
    back = engine.Linear.from_float(layer, scheme=Int8()).to_float()
    assert back.bias is None
    assert dict(back.named_buffers()) == {}


def test_repr() -> None:
    fast = linear(10, 4, sparsity=0.5, activation="gelu")
    kept = fast.kept() / 40
    assert repr(fast) == (
        "Linear(in_features=10, out_features=4, bias=True, kernel=windowed, int8 dynamic, "
        f"kept={kept:.1%}, efficiency={fast.efficiency():.0%}, activation=gelu)"
    )
    assert "int8 static" in repr(static_linear())
    assert "kept=0.0%" in repr(engine.Linear(0, 0))


def test_training_through_it_raises_and_says_what_to_do() -> None:
    fast = linear()
    x = torch.randn(2, 70, requires_grad=True)
    told = r"inference only and has no gradient.*torch\.inference_mode\(\).*sparsekd\.to_float"
    for mode in (True, False):
        fast.train(mode)
        with pytest.raises(RuntimeError, match=told):
            fast(x)
    with pytest.raises(RuntimeError, match=told):
        nn.Sequential(nn.Linear(3, 70), fast)(torch.randn(2, 3))
    with pytest.raises(RuntimeError, match=told):
        torch.func.grad(lambda v: fast(v).sum())(torch.randn(2, 70))
    with pytest.raises(RuntimeError, match=told):
        torch.compile(fast, backend="eager")(x)


def test_without_gradients_it_takes_what_requires_them() -> None:
    fast = linear()
    data = torch.randn(2, 70)
    y = expected(fast, data)
    assert torch.equal(fast.train()(data), y)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert torch.equal(fast(data.clone().requires_grad_()), y)
            assert torch.equal(fast(nn.Parameter(data)), y)
    with torch.inference_mode():
        inside = torch.randn(3, 70)
        assert torch.equal(fast(inside), expected(fast, inside))
    assert torch.equal(fast(inside), expected(fast, inside))  # an inference tensor outside
    assert not fast(data).requires_grad


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own
def test_forward_mode_derivatives_are_refused() -> None:
    """A tangent of zero would be a wrong answer."""
    fast, x = linear(), torch.randn(2, 70)
    told = r"Linear\(70, 37\) runs inference only: forward-mode differentiation"
    with pytest.raises(RuntimeError, match=told):
        torch.func.jvp(fast, (x,), (x,))
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(RuntimeError, match=told),
    ):
        fast(torch.autograd.forward_ad.make_dual(x, x))
