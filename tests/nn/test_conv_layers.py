"""Conv1d and Conv2d on the engine against torch: exact in int8, within a bound in float."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsekd import numerics, ops
from sparsekd.nn import Conv1d, Conv2d
from sparsekd.spec import NM, Bf16, Fp32, Int8, Scheme

INT8_KERNELS = ["windowed", "dense"]
GEOMETRIES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 1},
    {"kernel_size": (2, 5), "stride": (2, 1), "padding": (1, 2)},
    {"kernel_size": 3, "dilation": 2, "padding": "same"},
    {"kernel_size": 4, "padding": "same"},  # more below than above, more right than left
    {"kernel_size": 7, "stride": 2, "padding": 3},
    {"kernel_size": 3, "groups": 2, "padding": 1},
]


def conv(channels: int = 70, outputs: int = 36, keep: float = 0.4, **geometry: object) -> nn.Conv2d:
    """A float convolution with a random mask."""
    layer = nn.Conv2d(channels, outputs, **geometry)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight *= torch.rand_like(layer.weight) < keep
    return layer.eval()


def images(channels: int = 70, batch: int = 2, height: int = 9, width: int = 11) -> Tensor:
    return torch.randn(batch, channels, height, width)


def exact(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The int8 arithmetic in float64, dynamic activations: one scale a sample."""
    q, sw = numerics.quantize_weight(layer.weight.detach().flatten(1))
    rows, sx = numerics.quantize_rows(x.flatten(1))
    taps = layer._conv_forward(rows.view_as(x).double(), q.view_as(layer.weight).double(), None)
    y = taps.float() * (sx.view(-1, 1, 1, 1) * sw.view(1, -1, 1, 1))
    return y if layer.bias is None else y + layer.bias.detach().view(1, -1, 1, 1)


@pytest.mark.parametrize("kernel", INT8_KERNELS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_int8_is_exact(kernel: str, geometry: dict[str, object], isa: str) -> None:
    float_layer, x = conv(**geometry), images()
    layer = Conv2d.from_float(float_layer, scheme=Int8(), kernel=kernel)
    y = layer(x)
    assert y.abs().max() > 0.1
    assert torch.equal(y, exact(float_layer, x))
    last = layer(x.to(memory_format=torch.channels_last))
    assert torch.equal(last, y)
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("scheme", [Int8(), Fp32()], ids=str)
@pytest.mark.parametrize("channels", [1, 5, 16, 33, 100])
def test_depthwise(scheme: Scheme, channels: int, isa: str) -> None:
    float_layer = conv(channels, channels, 1.0, kernel_size=3, padding=1, groups=channels)
    x = images(channels)
    y = Conv2d.from_float(float_layer, scheme=scheme, kernel="depthwise")(x)
    if isinstance(scheme, Int8):
        assert torch.equal(y, exact(float_layer, x))
    else:
        torch.testing.assert_close(y, float_layer(x).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("scheme", "kernel", "tolerance"),
    [(Fp32(16), "windowed", 1e-5), (Fp32(32), "windowed", 1e-5), (Bf16(), "windowed", 2e-2)],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_floats_are_close(
    scheme: Scheme, kernel: str, tolerance: float, geometry: dict[str, object], isa: str
) -> None:
    float_layer, x = conv(**geometry), images()
    expected = float_layer(x).detach()
    layer = Conv2d.from_float(float_layer, scheme=scheme, kernel=kernel)
    scale = float(expected.abs().max())
    for given in (x, x.to(memory_format=torch.channels_last)):
        assert float((layer(given) - expected).abs().max()) < tolerance * scale


def test_csr_serves_pointwise_convolutions(isa: str) -> None:
    float_layer, x = conv(keep=0.05, kernel_size=1), images()
    layer = Conv2d.from_float(float_layer, scheme=Fp32(), kernel="csr")
    for given in (x, x.to(memory_format=torch.channels_last)):
        y = layer(given)
        torch.testing.assert_close(y, float_layer(given).detach(), rtol=0, atol=1e-5)
        assert y.stride() == float_layer(given).stride()


def test_border_pixels_use_the_zero_point() -> None:
    """With zero point 255 a wrong border byte changes every border pixel by far."""
    float_layer, x = conv(kernel_size=3, padding=2), -images().abs()
    layer = Conv2d(70, 36, 3, padding=2, scheme=Int8("static"), kernel="dense")
    q, sw = numerics.quantize_weight(float_layer.weight.detach().flatten(1))
    scale, zero_point = numerics.affine_params(x.min(), x.max())
    assert int(zero_point) == 255
    other = Conv2d.from_float(float_layer, scheme=Int8(), kernel="dense")
    assert float_layer.bias is not None
    layer.set_packed(
        {
            **{key: value for key, value in other._buffers.items() if value is not None},
            "input_scale": scale,
            "input_zero_point": zero_point,
        }
    )
    integers = numerics.quantize_affine(x, scale, zero_point) - zero_point
    sums = F.conv2d(F.pad(integers.double(), (2, 2, 2, 2)), q.view_as(float_layer.weight).double())
    expected = sums.float() * (scale * sw.view(1, -1, 1, 1))
    expected = expected + float_layer.bias.detach().view(1, -1, 1, 1)
    border = torch.ones_like(expected, dtype=torch.bool)
    border[:, :, 2:-2, 2:-2] = False
    y = layer(x)
    assert torch.equal(y[border], expected[border])
    assert torch.equal(y, expected)


@pytest.mark.parametrize("kernel", INT8_KERNELS)
def test_threads_and_batch_do_not_change_bits(kernel: str) -> None:
    layer = Conv2d.from_float(conv(kernel_size=3, padding=1), scheme=Int8(), kernel=kernel)
    x = images(batch=5)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(layer(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])
    assert torch.equal(results[0], torch.cat([layer(part) for part in x.split([1, 3, 1])]))


@pytest.mark.parametrize(("size", "stride"), [(28, 1), (56, 2)])
@torch.inference_mode()
def test_depthwise_images_beyond_the_cache(size: int, stride: int) -> None:
    """A batch whose input is asked for ahead, in short runs of pixels, and its images alone."""
    torch.manual_seed(size)
    depthwise = nn.Conv2d(144, 144, 3, stride, 1, groups=144)
    layer = Conv2d.from_float(depthwise, scheme=Int8(), kernel="depthwise")
    buffers = dict(layer._buffers)
    buffers["input_scale"] = torch.tensor(0.02)
    buffers["input_zero_point"] = torch.tensor(77, dtype=torch.int32)
    arguments = (*buffers.values(), *ops.conv2d_arguments(layer._settings))
    op = ops.conv2d_op(layer._format)
    u = torch.randint(0, 256, (9, 144, size, size), dtype=torch.uint8)
    u = u.contiguous(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [op(image, *arguments, 0.03, 130) for image in u.split(1)]
        floats = [op(image, *arguments) for image in u.split(1)]  # through fp32 instead
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(op(u, *arguments, 0.03, 130), torch.cat(alone))
    finally:
        torch.set_num_threads(before)
    out_scale, out_zero_point = torch.tensor(0.03), torch.tensor(130, dtype=torch.int32)
    y = numerics.quantize_affine(torch.cat(floats), out_scale, out_zero_point)
    assert torch.equal(torch.cat(alone).float(), y)
    assert len(y.unique()) > 100


def test_u8_on_both_sides() -> None:
    """Chained layers: the bytes of one are the input of the next, as numerics defines them."""
    first = Conv2d.from_float(conv(kernel_size=3, padding=1), scheme=Int8(), kernel="windowed")
    scale, zero_point = torch.tensor(0.02), 100
    op, arguments = ops.conv2d_op(first._format), ops.conv2d_arguments(first._settings)
    x = images()
    tensors = list(first._buffers.values())
    y = first(x)
    u = op(x, *tensors, *arguments, float(scale), zero_point)
    assert u.dtype is torch.uint8
    assert u.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(
        u.float(), numerics.quantize_affine(y, scale, torch.tensor(zero_point, dtype=torch.int32))
    )
    second = Conv2d.from_float(conv(36, 20, kernel_size=1), scheme=Int8(), kernel="dense")
    buffers = dict(second._buffers)
    buffers["input_scale"] = scale
    buffers["input_zero_point"] = torch.tensor(zero_point, dtype=torch.int32)
    op, arguments = ops.conv2d_op(second._format), ops.conv2d_arguments(second._settings)
    from_bytes = op(u, *buffers.values(), *arguments)
    from_floats = op((u.float() - zero_point) * scale, *buffers.values(), *arguments)
    torch.testing.assert_close(
        from_bytes, from_floats.contiguous(memory_format=torch.channels_last)
    )


@pytest.mark.parametrize("kernel", INT8_KERNELS)
def test_conv1d_is_exact(kernel: str) -> None:
    float_layer = nn.Conv1d(20, 30, 5, stride=2, padding=2)
    x = torch.randn(3, 20, 41)
    layer = Conv1d.from_float(float_layer, scheme=Int8(), kernel=kernel)
    two_d = nn.Conv2d(20, 30, (1, 5), stride=(1, 2), padding=(0, 2))
    with torch.no_grad():
        two_d.weight.copy_(float_layer.weight[:, :, None])
        two_d.bias.copy_(float_layer.bias)  # type: ignore[union-attr, arg-type]
    expected = exact(two_d, x[:, :, None])[:, :, 0]
    assert torch.equal(layer(x), expected)
    assert torch.equal(layer(x[0]), layer(x[:1])[0])


@pytest.mark.parametrize(("scheme", "kernel"), [(Int8(), "dense"), (Fp32(), "windowed")], ids=str)
def test_empty_batch_and_unbatched_input(scheme: Scheme, kernel: str) -> None:
    layer = Conv2d.from_float(conv(kernel_size=3), scheme=scheme, kernel=kernel)
    assert layer(images(batch=0)).shape == (0, 36, 7, 9)
    x = images(batch=1)
    assert torch.equal(layer(x[0]), layer(x)[0])


@pytest.mark.parametrize(
    ("scheme", "kernel"),
    [(Int8(), "windowed"), (Int8(), "dense"), (Fp32(16), "windowed"), (Bf16(), "windowed")],
    ids=str,
)
def test_copies_and_state(scheme: Scheme, kernel: str) -> None:
    float_layer = conv(kernel_size=3, padding=1, groups=2)
    layer, x = Conv2d.from_float(float_layer, scheme=scheme, kernel=kernel), images()
    fresh = Conv2d(70, 36, 3, padding=1, groups=2, scheme=scheme, kernel=kernel)
    fresh.load_state_dict(layer.state_dict())
    for other in (fresh, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    back = layer.to_float()
    assert back.weight.shape == float_layer.weight.shape
    if isinstance(scheme, Fp32):
        assert torch.equal(back.weight, float_layer.weight)
    else:
        weight = float_layer.weight.detach()
        step = float(weight.abs().max()) / 100
        assert float((back.weight.detach() - weight).abs().max()) < step


@pytest.mark.parametrize("kernel", INT8_KERNELS)
def test_channels_last_models_keep_packed_tensors(kernel: str) -> None:
    layer, x = Conv2d.from_float(conv(kernel_size=3), scheme=Int8(), kernel=kernel), images()
    y = layer(x)
    last = layer.to(memory_format=torch.channels_last)
    assert torch.equal(last(x.to(memory_format=torch.channels_last)), y)


def test_patterns_run_inside_a_tap() -> None:
    """An 8:64 mask along the channels of each tap fills every step: two a window and tap."""
    layer = conv(64, 32, 1.0, kernel_size=3)
    by_tap = layer.weight.detach().movedim(1, -1)
    mask = NM(8, 64).mask(by_tap.reshape(-1, 64).abs()).reshape(by_tap.shape).movedim(-1, 1)
    with torch.no_grad():
        layer.weight *= mask
    packed = Conv2d.from_float(layer, scheme=Int8(), kernel="windowed")
    assert packed.steps.shape == (2, 9)  # type: ignore[union-attr]
    assert set(packed.steps.flatten().tolist()) == {2}  # type: ignore[union-attr, operator]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 3}, "groups: 3 does not divide"),
        ({"stride": 0}, "stride: 0, expected 1"),
        ({"padding": -1}, "padding: -1, expected 0"),
        ({"dilation": 0}, "dilation: 0, expected 1"),
        ({"kernel_size": 0}, "kernel_size: 0, expected 1"),
        ({"padding": "full"}, "padding 'full', expected 'same', 'valid' or integers"),
        ({"padding": "same", "stride": 2}, "padding 'same' needs stride 1"),
        ({"kernel": "csr", "scheme": Fp32()}, "kernel 'csr' serves 1x1 convolutions"),
        ({"kernel": "depthwise"}, "kernel 'depthwise' serves convolutions with as many groups"),
        ({"kernel": "sparse"}, "unknown kernel 'sparse' for int8; choices are: windowed, dense"),
        ({"kernel": "dense", "scheme": Bf16()}, "unknown kernel 'dense' for bf16"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Conv2d(8, 8, **{"kernel_size": 3, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"in_channels": 8.5}, TypeError, r"Conv2d: in_channels: 8\.5, expected an integer"),
        ({"out_channels": "8"}, TypeError, "Conv2d: out_channels: '8', expected an integer"),
        ({"groups": 1.0}, TypeError, r"Conv2d: groups: 1\.0, expected an integer"),
        ({"kernel_size": 3.0}, TypeError, r"kernel_size: 3\.0, expected an integer or 2 of them"),
        ({"stride": (1, None)}, TypeError, "stride: None, expected an integer or 2 of them"),
        ({"padding": (1, 1, 1)}, ValueError, r"padding: \(1, 1, 1\), expected an integer or 2"),
        ({"in_channels": 2**70}, ValueError, "in_channels: 1180.*, expected at most 2147483647"),
        ({"stride": 2**70}, ValueError, "stride: 1180.*, expected at most 2147483647"),
        ({"out_channels": 2**21}, ValueError, r"out_channels: 2097152, expected 1\.\.1048576"),
        (
            {"in_channels": 2**20, "out_channels": 2**20, "kernel_size": 1024},
            MemoryError,
            r"Conv2d\(1048576, 1048576\): no memory for its weight of 1,15.* numbers",
        ),
    ],
    ids=str,
)
def test_impossible_sizes_are_one_clear_sentence(
    arguments: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Conv2d(**{"in_channels": 8, "out_channels": 8, "kernel_size": 3, **arguments})  # type: ignore[arg-type]


def test_integers_of_numpy_are_sizes() -> None:
    one, two = np.int64(1), np.int64(2)
    layer = Conv2d(np.int64(8), np.int32(4), (two, two), one, groups=two)
    assert repr(layer) == repr(Conv2d(8, 4, 2, 1, groups=2))


def test_autocast_changes_the_layers_around_it_alone() -> None:
    """Under autocast a torch layer before it gives bf16, which the engine widens to fp32."""
    float_layer, x = conv(kernel_size=3, padding=1), images()
    layer = Conv2d.from_float(float_layer, scheme=Int8(), kernel="windowed")
    before = nn.Conv2d(3, 70, 1).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert float_layer(x).dtype is torch.bfloat16  # autocast is at work
        y = layer(x)
        half = before(images(3))
        assert half.dtype is torch.bfloat16
        after_half = layer(half)
    assert y.dtype is after_half.dtype is torch.float32
    assert torch.equal(y, exact(float_layer, x))
    assert torch.equal(after_half, exact(float_layer, half.float()))


@pytest.mark.parametrize("kind", [Conv1d, Conv2d])
def test_to_float_draws_no_random_numbers(kind: type[Conv1d] | type[Conv2d]) -> None:
    layer = kind(8, 4, 3)
    before = torch.get_rng_state()
    with torch.device("meta"):  # nor does it follow the default device: it holds numbers
        back = layer.to_float()
    assert torch.equal(torch.get_rng_state(), before)
    assert back.weight.device.type == "cpu"
    assert back.weight.requires_grad


@pytest.mark.parametrize("scheme", [Int8(), Fp32(), Bf16()], ids=str)
@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("stride", (0, 1), "stride: 0, expected 1"),
        ("stride", (2**70, 1), "stride: 1180591620717411303424, expected at most"),
        ("dilation", (2**21, 1), "dilation: 2097152, expected 1"),
        ("padding", (-1, 0), "padding: -1, expected 0"),
        ("padding", None, "padding: None, expected an integer"),
        ("groups", 0, "groups: 0, expected 1"),
        ("groups", 3, "groups: 3 does not divide 8 in and 8 out channels"),
        ("groups", 2**70, "groups: 1180591620717411303424, expected at most"),
        ("kernel_size", (3, -3), "kernel_size: -3, expected 1"),
        ("kernel_size", (3, 1025), "kernel_size: 1025, expected 1..1024"),
        ("kernel_size", (5, 5), "weight of shape .* has 8 outputs of 9 taps and 8 channels; the "),
        ("in_channels", 7, "the layer's own sizes are 8 outputs of 9 taps and 7 channels"),
        ("out_channels", 0, "out_channels: 0, expected 1"),
    ],
    ids=str,
)
def test_absurd_geometry_is_refused_with_the_layers_name(
    scheme: Scheme, attribute: str, value: object, message: str
) -> None:
    float_layer = nn.Conv2d(8, 8, 3)
    setattr(float_layer, attribute, value)
    with pytest.raises((ValueError, TypeError), match=f"^layer 'stem': .*{message}"):
        Conv2d.from_float(float_layer, scheme=scheme, name="stem")


def test_absurd_geometry_of_an_op_is_refused() -> None:
    layer, x = Conv2d.from_float(nn.Conv2d(8, 8, 3), scheme=Int8(), kernel="dense"), images(8)
    op, tensors = ops.conv2d_op(layer._format), list(layer._buffers.values())
    good = ops.conv2d_arguments(layer._settings)
    assert torch.equal(op(x, *tensors, *good), layer(x))
    names = ["channels", "kernel_size", "stride", "dilation", "padding", "groups"]
    bad = [[0, 8], [3, 0], [1, 0], [-1, 1], [0, 0, 0, -1], 0]
    for i, (name, value) in enumerate(zip(names, bad, strict=True)):
        arguments = [*good[:i], value, *good[i + 1 :]]
        for device in ("cpu", "meta"):
            with pytest.raises(ValueError, match=f"{name}: "):
                op(x.to(device), *(t if t is None else t.to(device) for t in tensors), *arguments)
    for kernel in ([1024, 3], [3, 10]):
        arguments = [good[0], kernel, *good[2:]]
        with pytest.raises(ValueError, match=r"weight|panels|the output would be empty"):
            op(x, *tensors, *arguments)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("size", [0, 1, 4])
def test_an_empty_output_is_refused_with_the_layer(dims: int, size: int) -> None:
    layer: Conv1d | Conv2d = Conv1d(8, 8, 3, dilation=2) if dims == 1 else Conv2d(8, 8, (1, 5))
    shape = (8, size) if dims == 1 else (8, 9, size)
    message = rf"^Conv{dims}d\(8, 8\): input of shape .*: the output would be empty"
    for x in (torch.rand(shape), torch.rand(2, *shape), torch.rand(0, *shape)):
        with pytest.raises(ValueError, match=message):
            layer(x)
        with pytest.raises(ValueError, match=message):
            torch.compile(layer, backend="eager", fullgraph=False)(x)


def test_bad_input() -> None:
    layer = Conv2d.from_float(conv(kernel_size=3), scheme=Int8(), kernel="dense")
    with pytest.raises(ValueError, match=r"Conv2d\(70, 36\): input of shape \(2, 69, 9, 11\)"):
        layer(images(69))
    with pytest.raises(ValueError, match="the output would be empty"):
        layer(images(height=2))
    with pytest.raises(TypeError, match=r"dtype torch\.float64, expected torch\.float32"):
        layer(images().double())
    with pytest.raises(RuntimeError, match="runs inference only and has no gradient"):
        layer(images().requires_grad_())


def test_padding_modes_are_refused_by_name() -> None:
    reflect = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    with pytest.raises(ValueError, match="layer 'stem': padding_mode 'reflect', expected 'zeros'"):
        Conv2d.from_float(reflect, scheme=Int8(), name="stem")


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("weight_last", [False, True])
@pytest.mark.parametrize("input_last", [False, True])
def test_output_memory_format_is_that_of_torch(
    kernel_size: int, weight_last: bool, input_last: bool
) -> None:
    formats = {False: torch.contiguous_format, True: torch.channels_last}
    module = nn.Conv2d(8, 16, kernel_size).to(memory_format=formats[weight_last])
    x = torch.randn(2, 8, 6, 6).to(memory_format=formats[input_last])
    expected = module(x)
    before = Conv2d.from_float(module, scheme=Fp32())
    after = Conv2d.from_float(nn.Conv2d(8, 16, kernel_size), scheme=Fp32())
    after = after.to(memory_format=formats[weight_last])
    for layer in (before, after, copy.deepcopy(before), before):
        for _ in range(2):  # the second call is direct
            assert layer(x).stride() == expected.stride()
    assert before.to_float().weight.stride() == module.weight.stride()
    assert before.to(torch.float32).channels_last == weight_last  # no memory format was asked for
    assert not before.to(memory_format=torch.contiguous_format).channels_last
