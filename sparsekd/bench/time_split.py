"""Where the time of a converted network goes: kernels, the edges between them, and torch.

A layer that stands alone reads and writes fp32. Beside its kernel it quantizes its input and writes
four bytes where the next layer needs one; what lies between layers (additions, pooling) runs in
torch. An engine that keeps int8 between layers has none of this, so it is told apart here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sparsekd import ops
from sparsekd.backend import ConvGeometry
from sparsekd.bench.conv_layers import geometry_of
from sparsekd.bench.conv_ours import u8_layer
from sparsekd.bench.definitions import Arguments
from sparsekd.benchmark import measure
from sparsekd.nn import Conv2d, EngineModule
from sparsekd.spec import Int8
from sparsekd.whole_cores import watch_cores

__all__ = ["TimeSplit", "split_time"]

_CALLS = 12  # of the whole network, the first half dropped
_ROUNDS = 3  # of the kernels alone


@dataclass(frozen=True)
class TimeSplit:
    """Medians of one call, in seconds.

    Attributes:
        whole: of the network, with a clock around each of our layers.
        layers: inside our layers, fp32 in and out.
        kernels: the same layers with u8 in and out, each called alone; other layers than int8
            convolutions count as they run in place.
    """

    case: str
    variant: str
    whole: float
    layers: float
    kernels: float

    @property
    def edges(self) -> float:
        """What fp32 in and out costs our layers."""
        return self.layers - self.kernels

    @property
    def between(self) -> float:
        """Outside our layers: torch's operations, and Python."""
        return self.whole - self.layers

    def to_dict(self) -> dict[str, str | float]:
        """Plain JSON types."""
        return asdict(self) | {"edges": self.edges, "between": self.between}


def split_time(
    model: nn.Module, inputs: Iterable[Arguments], *, case: str, variant: str
) -> TimeSplit | None:
    """Time a converted network and its layers, and the kernels of its convolutions alone.

    Args:
        inputs: calls go through them in turn.

    Returns:
        None for a network without int8 convolutions.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, EngineModule)}
    if not any(_is_int8_convolution(layer) for layer in layers.values()):
        return None
    given = list(inputs)
    half = _CALLS // 2
    with torch.inference_mode(), _clocks(layers) as (clock, seen):

        def block() -> tuple[list[float], list[dict[str, float]]]:
            wholes, spent = [], []
            for turn in range(_CALLS):
                clock.clear()
                start = time.perf_counter()
                model(*given[turn % len(given)])
                wholes.append(time.perf_counter() - start)
                spent.append(dict(clock))
            return wholes, spent

        guard = watch_cores(torch.get_num_threads())
        wholes, spent = guard(block) if guard else block()
        shapes = dict(seen)
    in_place = {name: statistics.median(call[name] for call in spent[half:]) for name in shapes}
    alone = _kernel_seconds({name: layers[name] for name in shapes}, shapes)
    return TimeSplit(
        case,
        variant,
        statistics.median(wholes[half:]),
        statistics.median(sum(call.values()) for call in spent[half:]),
        sum(alone.get(name, seconds) for name, seconds in in_place.items()),
    )


def _is_int8_convolution(layer: EngineModule) -> bool:
    return isinstance(layer, Conv2d) and isinstance(layer.scheme, Int8)


@contextmanager
def _clocks(
    layers: Mapping[str, EngineModule],
) -> Iterator[tuple[dict[str, float], dict[str, torch.Size]]]:
    """Around each layer's forward: seconds by name, and the shapes of the inputs.

    Hooks would take every layer off the short way through ``nn.Module.__call__``.
    """
    clock: dict[str, float] = {}
    seen: dict[str, torch.Size] = {}

    def timed(name: str, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        start = time.perf_counter()
        y = forward(x)
        clock[name] = clock.get(name, 0.0) + time.perf_counter() - start
        seen[name] = x.shape
        return y

    for name, layer in layers.items():
        layer.__dict__["forward"] = partial(timed, name, layer.forward)
    try:
        yield clock, seen
    finally:
        for layer in layers.values():
            del layer.__dict__["forward"]


def _kernel_seconds(
    layers: Mapping[str, EngineModule], shapes: Mapping[str, torch.Size]
) -> dict[str, float]:
    """Of each int8 convolution with u8 in and out; layers alike are timed once."""
    names: dict[tuple[ConvGeometry, torch.Size, str, int], list[str]] = {}
    runs: dict[str, Callable[[], Tensor]] = {}
    for name, layer in layers.items():
        if not isinstance(layer, Conv2d) or not _is_int8_convolution(layer):
            continue
        geometry = geometry_of(layer.to_float())
        alike = names.setdefault((geometry, shapes[name], layer.kernel, layer.kept()), [])
        if not alike:
            runs[name] = _u8_call(layer, geometry, shapes[name])
        alike.append(name)
    times = measure(runs, rounds=_ROUNDS, guard=watch_cores(torch.get_num_threads()))
    return {name: times[alike[0]].median for alike in names.values() for name in alike}


def _u8_call(layer: Conv2d, geometry: ConvGeometry, shape: torch.Size) -> Callable[[], Tensor]:
    taps = layer.int_weight().movedim(1, -1).flatten(1, 2).contiguous()
    handle, _ = u8_layer(
        taps, layer.scale, layer.bias, geometry, layer.kernel, 0.02, layer.activation
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    x = x.contiguous(memory_format=torch.channels_last)
    return lambda: ops.run_conv2d(handle, geometry, x, (1.0, 128))
