"""nn.Linear: state_dict, loading all or nothing, copies, and changes of its buffers."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from linear_layers import expected, linear, static_linear
from torch import Tensor, nn

from sparsekd import nn as engine
from sparsekd.spec import Int8

NAN = float("nan")


def same_tensors(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(
        torch.equal(one[key], two[key]) and one[key].dtype == two[key].dtype for key in one
    )


def through_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.98])
@pytest.mark.parametrize("kernel", ["windowed", "dense"])
@pytest.mark.parametrize("assign", [False, True])
def test_state_dict_into_a_fresh_layer(kernel: str, sparsity: float, assign: bool) -> None:
    """The fresh layer holds another number of steps (none), and takes those of the file."""
    layer = linear(kernel=kernel, sparsity=sparsity)
    fresh = engine.Linear(70, 37, kernel=kernel)
    report = fresh.load_state_dict(through_file(layer.state_dict()), assign=assign)
    assert not report.missing_keys
    assert not report.unexpected_keys
    assert same_tensors(fresh, layer)
    x = torch.randn(3, 70)
    assert torch.equal(fresh(x), layer(x))


def test_static_state_dict_into_a_fresh_layer() -> None:
    layer = static_linear(low=-2.0)
    fresh = engine.Linear(70, 37, scheme=Int8("static"))
    fresh.load_state_dict(layer.state_dict())
    x = torch.randn(3, 70)
    assert torch.equal(fresh(x), layer(x))


def test_loading_copies() -> None:
    layer, fresh = linear(), engine.Linear(70, 37)
    state = layer.state_dict()
    fresh.load_state_dict(state, assign=True)
    x = torch.randn(3, 70)
    y = fresh(x)
    for tensor in state.values():
        tensor.zero_()
    assert torch.equal(fresh(x), y)


def test_state_dict_inside_a_model() -> None:
    model = nn.Sequential(linear(), nn.ReLU(), linear(37, 5, kernel="dense"))
    fresh = nn.Sequential(engine.Linear(70, 37), nn.ReLU(), engine.Linear(37, 5, kernel="dense"))
    fresh.load_state_dict(model.state_dict())
    x = torch.randn(4, 70)
    assert torch.equal(fresh(x), model(x))


def change(key: str, edit: Callable[[Tensor], Any]) -> Callable[[dict[str, Any]], None]:
    """A damage: ``edit`` returns another value for ``key``, or changes it in place."""

    def damage(state: dict[str, Any]) -> None:
        tensor = state[key].clone()
        result = edit(tensor)
        state[key] = tensor if result is None else result

    return damage


def put(index: Any, value: float) -> Callable[[Tensor], None]:
    return lambda tensor: tensor.__setitem__(index, value)


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "scale zero": (change("scale", put(3, 0.0)), r"scale: 0 at output 3"),
    "scale negative": (change("scale", put(3, -1.0)), r"scale: -1 at output 3"),
    "scale NaN": (change("scale", put(36, NAN)), r"scale: .*nan at output 36"),
    "scale Inf": (change("scale", put(0, float("inf"))), r"scale: inf at output 0"),
    "scale shape": (change("scale", lambda t: t[:-1]), r"scale: shape \(36,\), expected \(37,\)"),
    "scale 2-d": (change("scale", lambda t: t[:, None]), r"scale: shape \(37, 1\)"),
    "scale dtype": (change("scale", lambda t: t.double()), r"scale: dtype float64"),
    "scale bf16": (change("scale", lambda t: t.bfloat16()), r"scale: dtype (torch\.)?bfloat16"),
    "scale meta": (change("scale", lambda t: t.to("meta")), r"scale: on device meta"),
    "scale sparse": (change("scale", lambda t: t.to_sparse()), r"scale: .*sparse"),
    "scale text": (change("scale", lambda t: "large"), r"scale: .*str"),
    "scale array": (change("scale", lambda t: t.numpy()), r"scale: .*ndarray"),
    "bias shape": (change("bias", lambda t: t[:-1]), r"bias: shape \(36,\), expected \(37,?\)"),
    "bias dtype": (change("bias", lambda t: t.half()), r"bias: dtype float16"),
    "values -128": (change("values", put((0, 0, 0), -128)), r"values: -128 in lane 0"),
    "values dtype": (change("values", lambda t: t.short()), r"values: dtype int16, expected int8"),
    "values short": (change("values", lambda t: t[:-1]), r"positions: shape"),
    "values shape": (change("values", lambda t: t.reshape(-1, 64)), r"values: shape"),
    "values gap": (change("values", put((0, 0, 0), 0)), r"(positions|values): "),
    "positions outside": (change("positions", put((0, 0, 3), 64)), r"positions: 64"),
    "positions order": (change("positions", put((0, 0, 1), 0)), r"positions: 0 after"),
    "positions signed": (change("positions", lambda t: t.char()), r"positions: dtype int8"),
    "steps too many": (change("steps", put((0, 0), 17)), r"steps: 17"),
    "steps fewer": (change("steps", put((0, 0), 0)), r"step_ptr: entry 1"),
    "steps shape": (
        change("steps", lambda t: t[:, :0]),
        r"steps: shape \(3, 0\), expected \(3, 2\)",
    ),
    "step_ptr start": (change("step_ptr", put(0, 1)), r"step_ptr: starts at 1, expected 0"),
    "step_ptr negative": (change("step_ptr", put(1, -1)), r"step_ptr: entry 1 is -1"),
    "step_ptr huge": (change("step_ptr", put(3, 2**62)), r"step_ptr: entry 3"),
    "step_ptr dtype": (change("step_ptr", lambda t: t.int()), r"step_ptr: dtype int32"),
    "step_ptr length": (change("step_ptr", lambda t: t[:-1]), r"step_ptr: shape \(3,\)"),
    "input_scale zero": (change("input_scale", put((), 0.0)), r"input_scale: 0"),
    "input_scale NaN": (change("input_scale", put((), NAN)), r"input_scale: .*nan"),
    "input_scale shape": (change("input_scale", lambda t: t[None]), r"input_scale: .*shape \(1,\)"),
    "input_scale dtype": (change("input_scale", lambda t: t.double()), r"input_scale: .*float64"),
    "input_scale complex": (change("input_scale", lambda t: t * 1j), r"input_scale: .*complex"),
    "zero point 256": (change("input_zero_point", put((), 256)), r"input_zero_point: 256"),
    "zero point -1": (change("input_zero_point", put((), -1)), r"input_zero_point: -1"),
    "zero point shape": (
        change("input_zero_point", lambda t: t[None]),
        r"input_zero_point: .*shape",
    ),
    "zero point dtype": (
        change("input_zero_point", lambda t: t + 0.7),
        r"input_zero_point: .*float32",
    ),
    "zero point huge": (
        change("input_zero_point", lambda t: t.long() + 2**40),
        r"input_zero_point: ",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_state_is_refused_and_nothing_changes(name: str) -> None:
    """One sentence that names the layer and the tensor; the layer is as it was."""
    damage, message = DAMAGES[name]
    model = nn.Sequential(nn.Identity(), static_linear())
    before, x = copy.deepcopy(model), torch.randn(3, 70)
    state = dict(nn.Sequential(nn.Identity(), static_linear()).state_dict())
    state["1.bias"] = state["1.bias"] + 1.0  # sound and different: must not get in alone
    layer_state = {key.removeprefix("1."): value for key, value in state.items()}
    damage(layer_state)
    with pytest.raises(RuntimeError, match=r"layer '1': " + message) as raised:
        model.load_state_dict({f"1.{key}": value for key, value in layer_state.items()})
    assert len(str(raised.value).splitlines()) == 2  # torch's headline and one sentence
    assert same_tensors(model, before)
    assert torch.equal(model(x), before(x))


def test_missing_keys() -> None:
    layer = linear()
    before = copy.deepcopy(layer)
    state = linear().state_dict()
    del state["positions"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "positions"'):
        layer.load_state_dict(state)
    report = layer.load_state_dict(state, strict=False)
    assert report.missing_keys == ["positions"]
    assert same_tensors(layer, before)


def test_unexpected_keys() -> None:
    layer, other = linear(), linear()
    state = {**other.state_dict(), "weight": torch.zeros(37, 70)}
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "weight"'):
        layer.load_state_dict(state)
    assert layer.load_state_dict(state, strict=False).unexpected_keys == ["weight"]
    assert same_tensors(layer, other)


def test_state_of_a_float_layer_is_refused() -> None:
    with pytest.raises(RuntimeError, match="Missing key") as raised:
        engine.Linear(70, 37).load_state_dict(nn.Linear(70, 37).state_dict())
    assert '"weight"' in str(raised.value)


def test_state_of_another_kernel_is_refused() -> None:
    with pytest.raises(RuntimeError, match='"values"'):
        linear().load_state_dict(linear(kernel="dense").state_dict())


def test_set_packed_names_what_is_missing_and_changes_nothing() -> None:
    layer = linear()
    before = copy.deepcopy(layer)
    given: dict[str, Tensor | None] = dict(linear().named_buffers())
    given.pop("bias")
    with pytest.raises(ValueError, match=r"layer 'x': got tensors .* expected exactly .*'bias'"):
        layer.set_packed(given, name="x")
    assert same_tensors(layer, before)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), copy.copy],
    ids=["deepcopy", "pickle", "copy"],
)
@pytest.mark.parametrize("used", [False, True])
def test_copies(duplicate: Callable[[nn.Module], nn.Module], used: bool) -> None:
    layer, x = static_linear(), torch.randn(3, 70)
    y = expected(layer, x)
    if used:
        layer(x)  # the compiled handle must not get into the copy
    other = duplicate(layer)
    assert same_tensors(other, layer)
    assert torch.equal(other(x), y)
    assert repr(other) == repr(layer)


def test_a_deep_copy_is_its_own() -> None:
    layer, x = linear(), torch.randn(3, 70)
    y = layer(x)
    other = copy.deepcopy(layer)
    other.bias.add_(1.0)
    assert torch.equal(layer(x), y)
    assert not torch.equal(other(x), y)


def test_saving_the_whole_module() -> None:
    layer, x = linear(activation="relu"), torch.randn(3, 70)
    y = layer(x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), y)


@pytest.mark.parametrize("key", ["scale", "bias"])
def test_a_change_in_place_is_noticed(key: str) -> None:
    layer, x = linear(), torch.randn(3, 70)
    before = layer(x)
    getattr(layer, key).mul_(2.0)
    after = layer(x)
    assert not torch.equal(after, before)
    assert torch.equal(after, expected(layer, x))


def test_a_change_in_place_of_each_tensor_is_noticed() -> None:
    layer, x = static_linear(), torch.randn(3, 70)
    for key, buffer in layer.named_buffers():
        layer(x)
        handle = layer._cached
        buffer.copy_(buffer.clone())  # the same values: the version alone says it
        layer(x)
        assert layer._cached is not handle, key
        layer(x)
    handle = layer._cached
    layer(x)
    assert layer._cached is handle  # and without a change it stays


def test_a_replaced_buffer_is_noticed() -> None:
    layer, x = linear(), torch.randn(3, 70)
    layer(x)
    layer.bias = torch.arange(37.0)
    assert torch.equal(layer(x), expected(layer, x))
    layer.bias = None
    assert torch.equal(layer(x), expected(layer, x))
    assert "bias=False" in repr(layer)


def test_a_damaged_buffer_is_noticed() -> None:
    layer, x = linear(), torch.randn(3, 70)
    good = layer.positions[0, 0, 0].clone()
    layer(x)
    layer.positions[0, 0, 0] = 200
    for _ in range(2):
        with pytest.raises(ValueError, match=r"Linear\(70, 37\): positions: .*200"):
            layer(x)
    layer.positions[0, 0, 0] = good
    assert torch.equal(layer(x), expected(layer, x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_casting_the_module_gives_a_clear_error(dtype: torch.dtype) -> None:
    layer = linear().to(dtype)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"Linear\(70, 37\): scale: dtype (torch\.)?{name}"):
        layer(torch.randn(2, 70))
    layer.float()
    layer(torch.randn(2, 70))


def test_moving_the_module_gives_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"Linear\(70, 37\): values: on device meta"):
        linear().to("meta")(torch.randn(2, 70))


def test_a_parameter_in_place_of_a_buffer_gives_a_clear_error() -> None:
    layer = linear()
    with pytest.raises((TypeError, ValueError), match=r"bias"):  # noqa: PT012
        layer.bias = nn.Parameter(torch.zeros(37))
        layer(torch.randn(2, 70))
