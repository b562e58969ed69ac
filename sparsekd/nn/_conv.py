"""nn.Conv1d and nn.Conv2d on the engine."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparsekd import backend, direct, images, ops
from sparsekd.nn._engine import EngineModule
from sparsekd.nn._sources import integer_from, scheme_for, settle_window
from sparsekd.spec import Fp32, Int8, Scheme, scheme_from

__all__ = ["Conv1d", "Conv2d"]

_Conv = TypeVar("_Conv", bound="_ConvNd")
_Pair = tuple[int, int]
#: What torch's arguments and the attributes of its modules are called.
_SIZES = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")


@contextlib.contextmanager
def _errors_of(where: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from error


class _ConvNd(EngineModule):
    """What Conv1d and Conv2d share; a Conv1d is a Conv2d over images of height 1."""

    dims: int
    torch_kind: type[nn.Conv1d] | type[nn.Conv2d]

    in_channels: int
    out_channels: int
    #: Whether outputs are channels_last for inputs of any memory format, as those of a torch layer
    #: are whose weight is channels_last; a Conv1d's never are.
    channels_last: bool

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        scheme: Scheme | None = None,
        kernel: str = "windowed",
        activation: str | None = None,
        geometry: str | None = None,
    ) -> None:
        sizes = self._geometry_of(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups
        )
        (in_channels, out_channels), groups = sizes.channels, sizes.groups
        kernel_hw, stride_hw, pads = sizes.kernel, sizes.stride, sizes.padding
        pointwise = kernel_hw == stride_hw == (1, 1) and pads == (0, 0, 0, 0) and groups == 1
        if kernel == "csr" and not pointwise:
            raise ValueError(
                "kernel 'csr' serves 1x1 convolutions of stride 1 without padding or groups; "
                f"got kernel_size={kernel_size}, stride={stride}, padding={padding}, "
                f"groups={groups}"
            )
        if kernel == "depthwise" and not in_channels == out_channels == groups:
            raise ValueError(
                "kernel 'depthwise' serves convolutions with as many groups as channels; got "
                f"{in_channels} in, {out_channels} out, {groups} groups"
            )
        inputs = in_channels // groups
        scheme = Int8() if scheme is None else scheme_from(scheme)
        cut = self._cut(sizes, scheme, kernel, geometry)
        settings = backend.LayerSettings(inputs, out_channels, activation, geometry=cut)
        shape = (out_channels, kernel_hw[0] * kernel_hw[1], inputs)
        super().__init__(settings, shape, bias, scheme, kernel)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size, self.stride, self.dilation = (
            pair[2 - self.dims :] for pair in (kernel_hw, stride_hw, sizes.dilation)
        )
        self.padding = padding
        self.groups = groups
        self.channels_last = False

    @property
    def geometry(self) -> str:
        """What the weight is cut along: "pixels" under the kernel or "rows" of the kernel."""
        return "rows" if self._geometry().rows else "pixels"

    @classmethod
    def from_float(
        cls: type[_Conv],
        module: nn.Conv1d | nn.Conv2d,
        *,
        scheme: Scheme | None = None,
        kernel: str = "windowed",
        activation: str | None = None,
        name: str = "",
    ) -> _Conv:
        """Pack a float or fake-quantized torch convolution; arguments as in Linear.from_float.

        Raises:
            ValueError: no scheme, a static scheme without calibration, a ``padding_mode`` other
                than zeros, a kernel that does not serve this convolution, or weights that are not
                finite.
        """
        where = f"layer {name!r}" if name else "the layer"
        if module.padding_mode != "zeros":
            raise ValueError(
                f"{where}: padding_mode {module.padding_mode!r}, expected 'zeros'; leave it to "
                "torch"
            )
        sizes: dict[str, Any] = {key: getattr(module, key) for key in _SIZES}
        with _errors_of(where):
            geometry = cls._geometry_of(**sizes)
        chosen = settle_window(scheme_for(module, scheme, name), kernel, module, name, geometry)
        with _errors_of(where):
            layer = cls(
                **sizes,
                bias=module.bias is not None,
                scheme=chosen,
                kernel=kernel,
                activation=activation,
            )
        layer.fill_from(module, name=name)
        layer.channels_last = cls.dims == 2 and images.is_channels_last(module.weight)
        return layer

    def int_weight(self) -> Tensor:
        """The quantized weight, int8 [out_channels, in_channels / groups, *kernel_size].

        Raises:
            ValueError: the layer is not int8.
        """
        if not isinstance(self.scheme, Int8):
            raise ValueError(f"{self._where()} holds no integers: its scheme is {self.scheme}")
        return self._as_torch(self.packed_weight())

    def weight_dequantized(self) -> Tensor:
        """The weight that the layer computes with, fp32, in torch's shape."""
        return self._as_torch(self._dequantized())

    def to_float(self) -> Any:
        """A torch convolution with the dequantized weight, and a ``weight_mask`` if any is zero.

        Rounding stays: an int8 layer's weight becomes q * scale. The activation is not part of it.
        """
        # Without torch's initialisation, which would draw from the caller's random numbers.
        layer = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            self.torch_kind,
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.bias is not None,
            device="cpu",
        )
        layer = self._fill_float(layer, self.weight_dequantized())
        return layer.to(memory_format=torch.channels_last) if self.channels_last else layer

    def _fresh(self: _Conv, scheme: Scheme, kernel: str, geometry: str | None = None) -> _Conv:
        twin = type(self)(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.bias is not None,
            scheme=scheme,
            kernel=kernel,
            activation=self.activation,
            geometry=geometry,
        )
        twin.channels_last = self.channels_last
        return twin

    def _set_state(self, tensors: Mapping[str, Tensor | None], name: str) -> None:
        """A weight that is cut along the other geometry is cut again, into the same integers.

        The two can not be mistaken: they have other numbers of windows or dense steps.
        """
        try:
            super()._set_state(tensors, name)
        except ValueError as refused:
            try:
                other = "pixels" if self.geometry == "rows" else "rows"
                twin = self._fresh(self.scheme, self.kernel, other)
                twin.set_packed(tensors)
            except ValueError:  # not of that geometry either: what the own one says is the error
                raise refused from None
            # An order of outputs belongs to the weight that it came with.
            unordered = dict.fromkeys(self._format.optional)
            weight = self._pack(twin.packed_weight())
            self.set_packed({**tensors, **unordered, **weight}, name=name)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        parts.append(f"stride={self.stride}")
        if any(self._geometry().padding):
            parts.append(f"padding={self.padding!r}")
        if any(d != 1 for d in self.dilation):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self._geometry().rows:
            parts.append("geometry=rows")
        return ", ".join([*parts, self._describe()])

    def _run(self, x: Tensor) -> Tensor:
        """x: [batch, channels, height, width]."""
        if not direct.can_run_directly(x):
            arguments = (*self._buffers.values(), *ops.conv2d_arguments(self._settings))
            result: Tensor = ops.conv2d_op(self._format)(x, *arguments)
            return result
        handle = self._handle()
        try:
            if self.kernel == "csr":
                return ops.run_pointwise(handle, x)
            return ops.run_conv2d(handle, self._geometry(), x)
        except RuntimeError:  # sparse and such: looked at only now, so that it costs nothing
            ops.check_indirect(x, self._where())
            raise

    def _direct_call(self, handle: Any, tensors: tuple[Tensor | None, ...]) -> direct.DirectCall:
        if self.kernel == "csr":  # a Linear over pixels, which takes two views
            return direct.declined
        return direct.direct_call(handle, tensors, self.dims + 2)

    def _checked(self, x: Tensor) -> Tensor:
        """The input as fp32 and of the right shape, or an error."""
        if not direct.can_run_directly(x):
            ops.check_indirect(x, self._where())
        if x.requires_grad:
            self._refuse_gradient()
        x = ops.as_fp32(x, self._where())
        if x.dim() not in (self.dims + 1, self.dims + 2) or x.shape[-self.dims - 1] != (
            self.in_channels
        ):
            sizes = "height, width" if self.dims == 2 else "length"
            raise ValueError(
                f"{self._where()}: input of shape {tuple(x.shape)}, expected "
                f"([batch,] {self.in_channels}, {sizes})"
            )
        height, width = x.shape[-2:] if self.dims == 2 else (1, x.shape[-1])
        out_height, out_width = ops.out_size(self._geometry(), height, width)
        if out_height < 1 or out_width < 1:
            raise ValueError(
                f"{self._where()}: input of shape {tuple(x.shape)} with kernel_size="
                f"{self.kernel_size}, dilation={self.dilation}, padding={self.padding!r}: the "
                "output would be empty"
            )
        batch = x.shape[0] if x.dim() == self.dims + 2 else 1
        images.check_elements(self._where(), batch, self.out_channels, out_height, out_width)
        return x

    def _geometry(self) -> backend.ConvGeometry:
        geometry = self._settings.geometry
        assert geometry is not None
        return geometry

    def _as_torch(self, weight: Tensor) -> Tensor:
        """[outputs, taps, channels of a group] to torch's [outputs, channels, *kernel]."""
        shape = (self.out_channels, *self.kernel_size, self.in_channels // self.groups)
        return weight.reshape(shape).movedim(-1, 1).contiguous()

    @classmethod
    def _geometry_of(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...],
        padding: str | int | tuple[int, ...],
        dilation: int | tuple[int, ...],
        groups: int,
    ) -> backend.ConvGeometry:
        """The geometry that torch's arguments mean, after refusing what is absurd."""
        owner = cls.__name__
        channels = (
            integer_from(f"{owner}: in_channels", in_channels),
            integer_from(f"{owner}: out_channels", out_channels),
        )
        groups = integer_from(f"{owner}: groups", groups)
        kernel = cls._pair("kernel_size", kernel_size, 1)
        steps = cls._pair("stride", stride, 1)
        spacing = cls._pair("dilation", dilation, 1)
        pads = cls._padding(padding, kernel, steps, spacing)
        geometry = backend.ConvGeometry(channels, kernel, steps, spacing, pads, groups)
        with _errors_of(owner):
            geometry.native()  # refuses absurd sizes
        return geometry

    @staticmethod
    def _cut(
        sizes: backend.ConvGeometry, scheme: Scheme, kernel: str, geometry: str | None
    ) -> backend.ConvGeometry:
        """The sizes with what the weight is cut along: as asked for, else what fills the kernel."""
        fmt = backend.format_of(scheme, kernel)
        if geometry is None:
            window = scheme.window if isinstance(scheme, Fp32) else None
            return sizes.cut_for(fmt, window or 16)
        if geometry not in ("pixels", "rows"):
            raise ValueError(f"unknown geometry {geometry!r}; choices are None, 'pixels', 'rows'")
        if geometry == "rows" and fmt.kernel not in ("windowed", "dense"):
            raise ValueError(f"kernel {kernel!r} has no geometry 'rows'")
        sizes = dataclasses.replace(sizes, rows=geometry == "rows")
        sizes.native()  # refuses rows that are not read in one piece
        return sizes

    @classmethod
    def _pair(cls, what: str, value: int | tuple[int, ...], first: int) -> _Pair:
        """(height, width); ``first`` is the height of a Conv1d."""
        expected = f"an integer or {cls.dims} of them"
        given = tuple(value) if isinstance(value, (tuple, list)) else (value,) * cls.dims
        if len(given) != cls.dims:
            raise ValueError(f"{what}: {value!r}, expected {expected}")
        values = [integer_from(f"{cls.__name__}: {what}", v, expected) for v in given]
        return (first, values[0]) if cls.dims == 1 else (values[0], values[1])

    @classmethod
    def _padding(
        cls, padding: str | int | tuple[int, ...], kernel: _Pair, stride: _Pair, dilation: _Pair
    ) -> tuple[int, int, int, int]:
        """(top, bottom, left, right), by torch's rules for the names."""
        if padding == "valid":
            return (0, 0, 0, 0)
        if padding == "same":
            if stride != (1, 1):
                raise ValueError(f"padding 'same' needs stride 1, got {stride}")
            total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            return (
                total[0] // 2,
                total[0] - total[0] // 2,
                total[1] // 2,
                total[1] - total[1] // 2,
            )
        if isinstance(padding, str):
            raise ValueError(f"padding {padding!r}, expected 'same', 'valid' or integers")
        height, width = cls._pair("padding", padding, 0)
        return (height, height, width, width)


class Conv2d(_ConvNd):
    """y = act(conv2d(x, W) + b) with a packed weight; for inference.

    Takes what ``nn.Conv2d`` takes: x fp32 [batch, C, H, W] or [C, H, W] on the CPU, in either
    memory format; the output has the memory format that torch would give it: channels_last if the
    input is, or if the layer is (``model.to(memory_format=torch.channels_last)``, before or after
    it was converted). channels_last is read and written in place, NCHW is reordered on the way.
    Dynamic int8 activations have one scale a sample.

    Args:
        kernel: int8: "windowed" (sparse weights), "dense", "depthwise"; fp32: "windowed", "csr"
            (1x1 only), "depthwise"; bf16: "windowed".
        geometry: what the weight is cut along (docs/formats.md): "pixels"; "rows" for less than 64
            channels in one group without dilation along a row; None for what the sizes suit better.
        Other arguments as in ``nn.Conv2d`` and :class:`sparsekd.nn.Linear`.

    Raises:
        ValueError: an unknown kernel or activation, or sizes that do not fit together.

    >>> layer = Conv2d.from_float(nn.Conv2d(64, 64, 3, padding=1), scheme=Int8(), kernel="dense")
    >>> y = layer(torch.rand(1, 64, 14, 14).to(memory_format=torch.channels_last))
    """

    dims = 2
    torch_kind = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        if self.channels_last and isinstance(input, Tensor) and input.dim() == 4:
            input = input.contiguous(memory_format=torch.channels_last)
        return super().forward(input)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Conv2d:
        # What a memory format would do to torch's weight shows on two tensors of which torch leaves
        # one as it is; every other conversion keeps the format of both.
        image = torch.zeros(1, 2, 2, 2)
        if images.is_channels_last(fn(image)):
            self.channels_last = True
        elif not images.is_channels_last(fn(image.to(memory_format=torch.channels_last))):
            self.channels_last = False
        super()._apply(fn, recurse)
        return self

    def _forward(self, input: Tensor) -> Tensor:
        input = self._checked(input)
        return self._run(input) if input.dim() == 4 else self._run(input[None])[0]


class Conv1d(_ConvNd):
    """y = act(conv1d(x, W) + b) with a packed weight: :class:`Conv2d` over images of height 1.

    Takes what ``nn.Conv1d`` takes: x fp32 [batch, C, L] or [C, L] on the CPU.

    >>> layer = Conv1d.from_float(nn.Conv1d(64, 64, 3), scheme=Int8(), kernel="dense")
    >>> y = layer(torch.rand(1, 64, 100))
    """

    dims = 1
    torch_kind = nn.Conv1d

    def _forward(self, input: Tensor) -> Tensor:
        input = self._checked(input)
        batch = input if input.dim() == 3 else input[None]
        y = self._run(batch[:, :, None])[:, :, 0]
        return y if input.dim() == 3 else y[0]
