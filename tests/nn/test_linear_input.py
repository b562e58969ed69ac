"""nn.Linear: every shape and layout of input gives the right bits or a typed error."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable

import numpy as np
import pytest
import torch
from linear_layers import expected, float_linear, linear, static_linear, through_op
from torch import Tensor, nn

from sparsekd import backend
from sparsekd import nn as engine
from sparsekd.spec import Int8

KERNELS = list(backend.KERNELS)
INPUTS = 70


def check(layer: engine.Linear, x: Tensor) -> None:
    """Both ways into the engine agree with numerics, and x is as it was."""
    before = x.clone()
    y = layer(x)
    wanted = expected(layer, x.contiguous())
    assert y.shape == (*x.shape[:-1], layer.out_features)
    assert y.dtype is torch.float32
    assert y.is_contiguous()
    assert torch.equal(y, wanted)
    assert torch.equal(through_op(layer, x), wanted)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "leading", [(), (0,), (1,), (5,), (2, 3), (2, 0, 3), (1, 1, 1), (2, 1, 3, 2), (33,)], ids=str
)
def test_leading_dimensions(kernel: str, leading: tuple[int, ...]) -> None:
    check(linear(kernel=kernel), torch.randn(*leading, INPUTS))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bias", [True, False])
def test_odd_sizes(isa: str, kernel: str, bias: bool) -> None:
    for inputs in (0, 1, 2, 3, 5, 15, 16, 17, 63, 64, 65, 127, 129):
        for outputs in (0, 1, 2, 15, 16, 17, 33):
            for sparsity in (0.0, 0.7):
                layer = linear(inputs, outputs, bias=bias, kernel=kernel, sparsity=sparsity)
                for rows in (0, 1, 4, 9):
                    x = torch.randn(rows, inputs)
                    y = layer(x)
                    assert y.shape == (rows, outputs)
                    assert torch.equal(y, expected(layer, x)), f"{rows}x{inputs}->{outputs}"


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_inputs_gives_the_bias(kernel: str) -> None:
    layer = linear(0, 20, kernel=kernel, activation="relu")
    assert torch.equal(layer(torch.empty(3, 0)), layer.bias.relu().expand(3, 20))


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_kept_and_everything_kept(isa: str, kernel: str) -> None:
    x = torch.randn(9, INPUTS)
    nothing = float_linear()
    nn.init.zeros_(nothing.weight)
    layer = engine.Linear.from_float(nothing, scheme=Int8(), kernel=kernel)
    assert layer.kept() == 0
    assert torch.equal(layer(x), layer.bias.expand(9, 37))
    everything = float_linear()
    nn.init.constant_(everything.weight, -0.3)
    layer = engine.Linear.from_float(everything, scheme=Int8(), kernel=kernel)
    assert layer.kept() == INPUTS * 37
    check(layer, x)


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "transposed": lambda: torch.randn(INPUTS, 6).t(),
    "every other column": lambda: torch.randn(6, 2 * INPUTS)[:, ::2],
    "every other row": lambda: torch.randn(12, INPUTS)[::2],
    "cut columns": lambda: torch.randn(6, INPUTS + 9)[:, 4:-5],
    "offset by one float": lambda: torch.randn(6 * INPUTS + 1)[1:].view(6, INPUTS),
    "expanded rows": lambda: torch.randn(1, INPUTS).expand(6, INPUTS),
    "expanded columns": lambda: torch.randn(6, 1).expand(6, INPUTS),
    "one number": lambda: torch.tensor(0.3).expand(6, INPUTS),
    "flipped": lambda: torch.randn(6, INPUTS).flip(1),
    "permuted": lambda: torch.randn(2, INPUTS, 3).permute(0, 2, 1),
    "overlapping": lambda: torch.randn(INPUTS + 5).as_strided((6, INPUTS), (1, 1)),
    "one row, odd stride": lambda: torch.randn(INPUTS).as_strided((1, INPUTS), (7, 1)),
    "one row, stride 0": lambda: torch.randn(INPUTS).as_strided((1, INPUTS), (0, 1)),
    "size-1 dims, odd strides": lambda: torch.randn(2 * INPUTS).as_strided(
        (1, 2, 1, INPUTS), (3, INPUTS, 1, 1)
    ),
    "channels last": lambda: torch.randn(2, 3, 4, INPUTS).to(memory_format=torch.channels_last),
    "from numpy": lambda: torch.from_numpy(np.ones((6, INPUTS), np.float32)),
    "no storage": lambda: torch.empty(0).view(0, 1).expand(0, INPUTS),
    "negated view": lambda: torch._neg_view(torch.randn(6, INPUTS)),
    "conjugate's imaginary part": lambda: torch.randn(6, INPUTS, dtype=torch.cfloat).conj().imag,
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(kernel: str, name: str) -> None:
    x = LAYOUTS[name]()
    layer = linear(kernel=kernel)
    check(layer, x)
    check(static_linear(kernel=kernel), x)


def test_a_contiguous_negated_view() -> None:
    """The imaginary part of a conjugate is contiguous where it has one column."""
    x = torch.tensor([[0.5 + 3j]]).conj().imag
    assert x.is_contiguous()
    assert x.is_neg()
    check(linear(1, 3, sparsity=0.0), x)


def test_read_only_numpy() -> None:
    data = np.ones((2, INPUTS), np.float32)
    data.flags.writeable = False
    with pytest.warns(UserWarning, match="not writable"):
        x = torch.from_numpy(data)
    check(linear(), x)


def test_a_subclass_goes_through_the_op() -> None:
    class Named(Tensor):
        pass

    layer, x = linear(), torch.randn(3, INPUTS)
    y = layer(x.as_subclass(Named))
    assert torch.equal(y.as_subclass(Tensor), expected(layer, x))


def test_autocast_changes_the_layers_around_it_alone() -> None:
    """Under autocast a torch layer before it gives bf16, which the engine widens to fp32."""
    layer, x = linear(), torch.randn(3, INPUTS)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), expected(layer, x))
        half = nn.Linear(3, INPUTS)(torch.randn(2, 3))
        assert half.dtype is torch.bfloat16
        assert torch.equal(layer(half), expected(layer, half.float()))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.cfloat]
)
def test_wrong_dtype(dtype: torch.dtype) -> None:
    layer = linear()
    with pytest.raises(TypeError, match=rf"Linear\(70, 37\): input of dtype {dtype}, expected"):
        layer(torch.zeros(2, INPUTS, dtype=dtype))
    with pytest.raises(TypeError, match=rf"Linear\(70, 37\): input of dtype {dtype}, expected"):
        through_op(layer, torch.zeros(2, INPUTS, dtype=dtype))


@pytest.mark.parametrize("shape", [(), (69,), (2, 71), (70, 2), (2, 0), (0, 71), (2, 3, 1)])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    layer, x = linear(), torch.zeros(shape)
    text = str(shape).replace("(", r"\(").replace(")", r"\)")
    for call in (layer.__call__, lambda x: through_op(layer, x)):
        with pytest.raises(ValueError, match=rf"input of shape {text}, expected \(\.\.\., 70\)"):
            call(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.to_sparse(),
        lambda x: x.to_mkldnn(),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: None,
    ],
    ids=["sparse", "mkldnn", "list", "numpy", "None"],
)
def test_what_is_no_dense_tensor(make: Callable[[Tensor], object]) -> None:
    with pytest.raises(TypeError, match=r"Linear\(70, 37\): input .*expected"):
        linear()(make(torch.randn(2, INPUTS)))


def test_meta() -> None:
    layer = linear()
    y = layer(torch.empty(2, 3, INPUTS, device="meta"))
    assert y.device.type == "meta"
    assert y.shape == (2, 3, 37)
    with pytest.raises(ValueError, match=r"input of shape \(2, 71\), expected \(\.\.\., 70\)"):
        layer(torch.empty(2, 71, device="meta"))
    with pytest.raises(TypeError, match=r"input of dtype torch\.float64"):
        layer(torch.empty(2, INPUTS, device="meta", dtype=torch.float64))


@pytest.mark.parametrize(
    "make",
    [
        "x = torch.rand(4, 64); x.untyped_storage().resize_(0)",
        "w = torch.rand(5, 64); x = w[1:]; w.untyped_storage().resize_(0)",
        "x = torch._efficientzerotensor((4, 64))",
    ],
    ids=["freed storage", "view of a freed storage", "zero tensor"],
)
def test_a_tensor_without_memory_does_not_crash(make: str) -> None:
    """In a process of its own, since the failure would be a segmentation fault."""
    program = textwrap.dedent("""
        import torch
        from sparsekd import nn
        layer = nn.Linear(64, 32)
        {make}
        try:
            assert layer(x).shape == (4, 32)
        except (RuntimeError, ValueError) as error:
            print("refused:", error)
    """).format(make=make)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr[-500:]


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_written_past_the_output(isa: str, kernel: str) -> None:
    """The native call on a part of a larger buffer leaves the rest alone."""
    for outputs in (1, 15, 17, 33):
        layer = linear(INPUTS, outputs, kernel=kernel)
        x = torch.randn(5, INPUTS)
        frame = torch.full((7, outputs), 123.0)
        layer._handle().forward(x.data_ptr(), 5, frame[1].data_ptr(), 1)
        assert torch.equal(frame[1:6], expected(layer, x))
        assert (frame[[0, 6]] == 123.0).all()


def test_native_call_refuses_bad_counts() -> None:
    handle, x, y = linear()._handle(), torch.randn(2, INPUTS), torch.empty(2, 37)
    with pytest.raises(ValueError, match="rows: -1, expected at least 0"):
        handle.forward(x.data_ptr(), -1, y.data_ptr(), 1)
    with pytest.raises(ValueError, match="thread count 0, expected at least 1"):
        handle.forward(x.data_ptr(), 2, y.data_ptr(), 0)
