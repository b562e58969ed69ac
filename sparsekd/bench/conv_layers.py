"""The distinct convolutions of networks, and one of them as a problem for everyone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsekd.backend import ConvGeometry
from sparsekd.bench.definitions import ModelDefinition
from sparsekd.bench.peers import Engine

__all__ = ["ConvLayer", "ConvProblem", "conv_error", "convolutions_of", "geometry_of"]

T = TypeVar("T")
_COPIES = 4  # inputs that calls rotate among
_SCALE = 0.02  # of the u8 inputs


@dataclass(frozen=True)
class ConvLayer:
    """A convolution and the size of the images that it gets.

    Attributes:
        size: (height, width) of the input.
    """

    geometry: ConvGeometry
    size: tuple[int, int]

    @property
    def depthwise(self) -> bool:
        """Each channel is a group of its own."""
        inputs, outputs = self.geometry.channels
        return inputs == outputs == self.geometry.groups

    @property
    def title(self) -> str:
        """Such as "3x3 64->64 56x56", with "/2" behind the kernel for a stride, "dw" for depthwise.

        Names every layer of the networks here, but not every one that there could be.
        """
        g = self.geometry
        stride = f"/{g.stride[0]}" if g.stride != (1, 1) else ""
        kernel = f"{g.kernel[0]}x{g.kernel[1]}{stride}"
        size = f"{self.size[0]}x{self.size[1]}"
        if self.depthwise:
            return f"{kernel} dw {g.channels[0]} {size}"
        return f"{kernel} {g.channels[0]}->{g.channels[1]} {size}"

    @property
    def out_size(self) -> tuple[int, int]:
        """(height, width) of the output."""
        height, width = self.geometry.native().out_size(*self.size)
        return height, width

    def multiply_adds(self, batch: int) -> int:
        """Of one call, with dense weights and counting padding."""
        g, (height, width) = self.geometry, self.out_size
        taps = g.kernel[0] * g.kernel[1] * g.channels[0] // g.groups
        return batch * height * width * g.channels[1] * taps


def convolutions_of(definition: ModelDefinition) -> dict[ConvLayer, list[str]]:
    """The distinct convolutions of a model, in its order, each with the names that it has there."""
    arguments = next(iter(definition.cases.values()))()[0]
    with torch.device("meta"):  # shapes alone: nothing is computed
        model = (definition.architecture or definition.build)().eval()
    found: dict[ConvLayer, list[str]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def see(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            assert isinstance(module, nn.Conv2d)
            height, width = given[0].shape[-2:]
            layer = ConvLayer(geometry_of(module), (height, width))
            found.setdefault(layer, []).append(name)

        return see

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        model(*(x.to("meta") for x in arguments))
    return found


def geometry_of(module: nn.Conv2d) -> ConvGeometry:
    """The geometry of a torch convolution whose padding is given in numbers."""
    assert not isinstance(module.padding, str)
    (height, width), (kh, kw) = module.padding, module.kernel_size
    (sh, sw), (dh, dw) = module.stride, module.dilation
    channels = (module.in_channels, module.out_channels)
    pads = (height, height, width, width)
    return ConvGeometry(channels, (kh, kw), (sh, sw), (dh, dw), pads, module.groups)


@dataclass(frozen=True)
class ConvProblem:
    """A convolution with weights and the images that it is called on.

    Attributes:
        conv: the float layer, in eval mode.
        inputs: u8 [batch, channels, height, width] in channels_last; calls rotate among them.
        scale: of the inputs; their zero point is 0, as behind a ReLU.
        out_scale: of a u8 output behind a ReLU; its zero point is 0.
        threads: how many threads each engine may use.
        shared: what depends on the weight alone, by name; problems of the same weight share it.
    """

    layer: ConvLayer
    conv: nn.Conv2d
    inputs: tuple[Tensor, ...]
    scale: float
    out_scale: float
    threads: int
    shared: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def random(cls, layer: ConvLayer, batch: int, *, threads: int, seed: int = 0) -> ConvProblem:
        """Normal weights, inputs as they come out of a ReLU; the same seed gives the same."""
        g = layer.geometry
        generator = torch.Generator().manual_seed(seed)
        conv = (
            nn.Conv2d(*g.channels, g.kernel, g.stride, g.padding[::2], g.dilation, g.groups)
            .eval()
            .requires_grad_(False)
        )
        fan_in = conv.weight[0].numel()
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator) / fan_in**0.5)
        conv.bias.copy_(torch.randn(g.channels[1], generator=generator))  # type: ignore[union-attr]
        return cls(layer, conv, (), _SCALE, 1.0, threads).with_inputs(batch, threads, seed)

    def with_inputs(self, batch: int, threads: int, seed: int = 0) -> ConvProblem:
        """The same layer on other images."""
        generator = torch.Generator().manual_seed(seed + 1)
        shape = (batch, self.layer.geometry.channels[0], *self.layer.size)
        inputs = tuple(
            (torch.randn(shape, generator=generator).relu() / _SCALE)
            .round()
            .clamp(max=255)
            .to(torch.uint8)
            .contiguous(memory_format=torch.channels_last)
            for _ in range(_COPIES)
        )
        given = replace(self, inputs=inputs, threads=threads)
        most = max(float(given.reference(i).max()) for i in range(_COPIES))
        return replace(given, out_scale=max(most, 1e-3) / 255)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` gives, made once for all problems of this weight."""
        if name not in self.shared:
            self.shared[name] = make()
        made: T = self.shared[name]
        return made

    def floats(self, *, nhwc: bool) -> tuple[Tensor, ...]:
        """The same images in fp32."""
        layout = torch.channels_last if nhwc else torch.contiguous_format
        return tuple((x * self.scale).contiguous(memory_format=layout) for x in self.inputs)

    def sample(self, index: int) -> int:
        """Which image of an input is compared."""
        return index % self.inputs[0].shape[0]

    def reference(self, index: int, weight: Tensor | None = None) -> Tensor:
        """The float64 output for one image of an input, float64 [1, channels, height, width]."""
        conv, g = self.conv, self.layer.geometry
        used = conv.weight if weight is None else weight
        at = self.sample(index)
        x = self.inputs[index][at : at + 1].double() * self.scale
        assert conv.bias is not None
        return F.conv2d(
            x, used.double(), conv.bias.double(), g.stride, g.padding[::2], g.dilation, g.groups
        )


def conv_error(engine: Engine, problem: ConvProblem) -> float:
    """Root mean square of (output - float64 output) over that of the float64 output.

    Over one image of each input. A u8 output is compared behind the ReLU.
    """
    wrong = right = 0.0
    for index in range(len(problem.inputs)):
        expected = problem.reference(index, engine.weight)
        at = problem.sample(index)
        output = engine.output(index)[at : at + 1]
        if output.dtype is torch.uint8:
            expected, output = expected.relu(), output.double() * problem.out_scale
        wrong += float((output.double() - expected).square().sum())
        right += float(expected.square().sum())
    return float((wrong / right if right else wrong) ** 0.5)
