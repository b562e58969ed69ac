"""The registered ops: the bits of the direct path, the checks of torch.library, no leaks."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sparsekd import backend, direct, ops
from sparsekd import nn as engine
from sparsekd.quantize import calibrate, prepare_
from sparsekd.spec import Int8

KERNELS = list(backend.KERNELS)
SCHEMES = [Int8(), Int8("static")]


def make(kernel: str = "windowed", scheme: Int8 | None = None, **settings: Any) -> engine.Linear:
    model = nn.Sequential(nn.Linear(70, 37))
    prepare_(model, scheme or Int8())
    if scheme is not None and scheme.activations == "static":
        calibrate(model, [torch.rand(9, 70) - 0.2])
    return engine.Linear.from_float(model.eval()[0], kernel=kernel, **settings)


def op_of(layer: engine.Linear) -> Any:
    return ops.linear_op(layer._format)


def arguments(layer: engine.Linear) -> tuple[Any, ...]:
    """What the op takes after x."""
    return (*layer._buffers.values(), *ops.linear_arguments(layer._settings))


def call(layer: engine.Linear, x: Tensor) -> Tensor:
    y: Tensor = op_of(layer)(x, *arguments(layer))
    return y


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.activations)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("activation", [None, "relu", "gelu", "silu"])
def test_op_and_direct_path_give_the_same_bits(
    kernel: str, scheme: Int8, activation: str | None
) -> None:
    layer = make(kernel, scheme, activation=activation)
    for shape in [(70,), (1, 70), (9, 70), (2, 0, 70), (2, 3, 70)]:
        x = torch.randn(shape)
        assert torch.equal(call(layer, x), layer(x))
        assert torch.equal(
            call(layer, x.expand(2, *shape).transpose(0, -2)),
            layer(x.expand(2, *shape).transpose(0, -2)),
        )


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.activations)
@pytest.mark.parametrize("kernel", KERNELS)
def test_opcheck(kernel: str, scheme: Int8) -> None:
    layer = make(kernel, scheme)
    for x in (torch.randn(3, 70), torch.randn(2, 0, 70), torch.randn(70, 4).t()):
        torch.library.opcheck(op_of(layer), (x, *arguments(layer)))


def test_the_ops_have_the_names_of_the_formats() -> None:
    for kernel in KERNELS:
        op = op_of(make(kernel))
        assert op.name() == f"sparsekd::linear_{kernel}_s8"
        assert op is getattr(torch.ops.sparsekd, f"linear_{kernel}_s8").default


@pytest.mark.parametrize("kernel", KERNELS)
def test_fake_tensors(kernel: str) -> None:
    layer = make(kernel)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y = layer(mode.from_tensor(torch.randn(2, 3, 70)))
        assert y.shape == (2, 3, 37)
        assert y.dtype is torch.float32
        assert y.device.type == "cpu"
        with pytest.raises(ValueError, match=r"input of shape \(2, 71\), expected \(\.\.\., 70\)"):
            layer(mode.from_tensor(torch.randn(2, 71)))


@pytest.mark.parametrize("kernel", KERNELS)
def test_compile_without_a_graph_break(kernel: str) -> None:
    """On torch's "eager" backend, which needs no compiler here."""
    torch.compiler.reset()
    layer = make(kernel, activation="relu")
    fast = torch.compile(nn.Sequential(nn.Tanh(), layer), fullgraph=True, backend="eager")
    with torch.inference_mode():
        for rows in (3, 5, 8):  # the second size makes the rows symbolic
            x = torch.randn(rows, 70)
            assert torch.equal(fast(x), layer(torch.tanh(x)))


def test_export() -> None:
    layer, x = make(), torch.randn(3, 70)
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: rows},))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets == ["sparsekd.linear_windowed_s8.default"]
    other = torch.randn(9, 70)
    assert torch.equal(program.module()(other), layer(other))


@pytest.mark.filterwarnings("ignore:.*performance drop.*:UserWarning")  # it says so itself
def test_vmap_goes_through_the_op() -> None:
    layer, x = make(), torch.randn(4, 3, 70)
    assert torch.equal(torch.func.vmap(layer)(x), layer(x))
    assert torch.equal(torch.func.vmap(layer, in_dims=1)(x), layer(x).transpose(0, 1))


def test_a_dispatch_mode_sees_the_call() -> None:
    seen: list[str] = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func.name())
            return func(*args, **(kwargs or {}))

    layer, x = make(), torch.randn(3, 70)
    wanted = layer(x)
    with Spy():
        assert torch.equal(layer(x), wanted)
    assert "sparsekd::linear_windowed_s8" in seen


def test_who_may_run_directly() -> None:
    class Sub(Tensor):
        pass

    x = torch.randn(2, 70)
    assert direct.can_run_directly(x)
    assert direct.can_run_directly(x.t())
    assert direct.can_run_directly(x.clone().requires_grad_())
    with torch.inference_mode():
        assert direct.can_run_directly(torch.randn(2, 70))
    assert not direct.can_run_directly(x.as_subclass(Sub))
    assert not direct.can_run_directly(nn.Parameter(x))
    assert not direct.can_run_directly(x.to("meta"))
    assert not direct.can_run_directly(torch._neg_view(x))
    with FakeTensorMode():
        assert not direct.can_run_directly(x)
    with BaseTorchFunctionMode():
        assert not direct.can_run_directly(x)
    inside: list[bool] = []
    torch.func.vmap(lambda v: (inside.append(direct.can_run_directly(v)), v)[1])(x)
    with torch.autograd.forward_ad.dual_level():
        inside.append(direct.can_run_directly(x))
    assert inside == [False, False]
    assert direct.can_run_directly(x)


def test_backward_through_the_op_raises() -> None:
    x = torch.randn(2, 70, requires_grad=True)
    y = call(make(), x)
    with pytest.raises(RuntimeError, match=r"inference only and has no gradient"):
        y.sum().backward()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_op_checks_its_input(device: str) -> None:
    layer = make()
    for shape in [(), (69,), (2, 71)]:
        with pytest.raises(ValueError, match=r"sparsekd linear: input of shape .* \(\.\.\., 70\)"):
            call(layer, torch.zeros(shape, device=device))
    for dtype in (torch.float64, torch.bfloat16, torch.int8):
        with pytest.raises(TypeError, match=rf"sparsekd linear: input of dtype {dtype}, expected"):
            call(layer, torch.zeros(2, 70, dtype=dtype, device=device))


def test_the_op_checks_its_weight() -> None:
    layer, x = make(), torch.randn(2, 70)
    values, positions, *rest = arguments(layer)
    bad = positions.clone()
    bad[0, 0, 0] = 64
    with pytest.raises(ValueError, match="positions: "):
        op_of(layer)(x, values, bad, *rest)
    with pytest.raises(ValueError, match="unknown activation 'tanh'"):
        op_of(layer)(x, values, positions, *rest[:-1], "tanh")
    with pytest.raises(ValueError, match="steps: shape"):  # inputs that do not fit the weight
        op_of(layer)(torch.randn(2, 700), values, positions, *rest[:-4], 700, *rest[-3:])


def test_the_handles_of_the_op_die_with_the_weight() -> None:
    gc.collect()
    before = len(ops._cache)
    layer = make()
    weight = weakref.ref(layer.values)
    for _ in range(3):
        call(layer, torch.randn(2, 70))
    assert len(ops._cache) == before + 1
    del layer
    gc.collect()
    assert weight() is None
    assert len(ops._cache) == before


def test_a_change_of_the_weight_does_not_pile_up_handles() -> None:
    layer, x = make(), torch.randn(2, 70)
    first = call(layer, x)
    for factor in (2.0, 0.25, 8.0):
        layer.scale.mul_(factor)
        assert torch.equal(call(layer, x), layer(x))
    assert not torch.equal(call(layer, x), first)
    assert len(ops._cache[layer.values]) == 1


def test_a_write_to_the_key_of_the_cache_is_noticed() -> None:
    layer, x = make("dense"), torch.randn(2, 70)
    first = call(layer, x)
    layer.panels.neg_()
    assert torch.equal(call(layer, x), layer(x))
    assert not torch.equal(call(layer, x), first)


def test_one_weight_with_different_settings() -> None:
    """Two layers that share tensors but not the activation get handles of their own."""
    layer, x = make(), torch.randn(5, 70)
    rest = arguments(layer)[:-1]
    for _ in range(2):
        plain = op_of(layer)(x, *rest, "none")
        assert torch.equal(plain, layer(x))
        assert torch.equal(op_of(layer)(x, *rest, "relu"), plain.relu())


def test_a_layer_and_its_copy_do_not_share_a_handle() -> None:
    layer, x = make(), torch.randn(2, 70)
    other = copy.deepcopy(layer)
    other.bias.add_(1.0)
    assert not torch.equal(call(layer, x), call(other, x))
    assert torch.equal(call(other, x), other(x))


def test_a_write_to_an_inference_tensor_is_the_stated_exception() -> None:
    """Such tensors carry no version; replacing one is noticed all the same."""
    with torch.inference_mode():
        layer, x = make(), torch.randn(2, 70)
        layer(x)
        layer.bias = layer.bias + 1.0
        fresh = engine.Linear(70, 37)
        fresh.load_state_dict(layer.state_dict())
        assert torch.equal(layer(x), fresh(x))
        assert torch.equal(call(layer, x), fresh(x))
