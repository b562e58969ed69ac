"""Which Linear layers, rows and engines ``sparsekd bench linear`` measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from torch import Tensor, nn

from sparsekd.bench.definitions import load_definitions
from sparsekd.bench.linear_problem import LinearProblem
from sparsekd.bench.onnx_runtime import onnx_runtime_peers
from sparsekd.bench.openvino_runtime import openvino_peers
from sparsekd.bench.ours import format_named, our_contenders
from sparsekd.bench.rates import rate_contenders
from sparsekd.bench.record import Kind
from sparsekd.bench.runner import Contender, Timing
from sparsekd.bench.settings import PEERS
from sparsekd.bench.torch_runtime import torch_peers

__all__ = ["PRESETS", "Layer", "Part", "PlannedPoint", "Preset", "layers_of", "plan"]

# Powers of two, the sizes of BERT-base, and odd ones.
_SHAPES = (
    "384x1536",
    "768x768",
    "768x3072",
    "3072x768",
    "1024x4096",
    "4096x4096",
    "500x1000",
    "1000x250",
)
_ROWS = (1, 2, 8, 16, 64, 128, 512)

#: Layers with trained weights that "minilm" stands for: name in the model -> (in, out).
TRAINED: Mapping[str, tuple[int, int]] = {
    f"encoder.encoder.layer.{index}.{part}": size
    for index in (0, 2, 5)
    for part, size in (
        ("attention.self.query", (384, 384)),
        ("intermediate.dense", (384, 1536)),
        ("output.dense", (1536, 384)),
    )
}


@dataclass(frozen=True)
class Layer:
    """A Linear layer: its sizes, and where its weights come from ("random" or a trained name)."""

    inputs: int
    outputs: int
    weights: str = "random"

    def title(self, rows: int) -> str:
        """Such as "16x768->3072"."""
        text = f"{rows}x{self.inputs}->{self.outputs}"
        if self.weights == "random":
            return text
        part = self.weights.split("layer.")[1]
        return f"{text} {part.replace('.self', '').replace('.dense', '')}"


@dataclass(frozen=True)
class Part:
    """Layers that are all measured at the same rows and with the same engines.

    Attributes:
        shapes: "<in>x<out>", or "minilm" for layers of a trained encoder.
        formats: keys of :data:`sparsekd.bench.ours.FORMATS`.
        sparsities: none: those that each format is usually measured with.
        against: kinds of the other engines; none: those that the formats compete with.
    """

    shapes: tuple[str, ...]
    rows: tuple[int, ...]
    formats: tuple[str, ...]
    sparsities: tuple[float, ...] = ()
    against: tuple[Kind, ...] = ()

    def check(self) -> None:
        """Raises ValueError on what can not be measured."""
        layers_of(self.shapes)
        for name in self.formats:
            form = format_named(name)
            for sparsity in self.sparsities:
                form.check(sparsity)


@dataclass(frozen=True)
class Preset:
    """Parts that make one comparison; where they share a point, it is measured once."""

    parts: tuple[Part, ...]
    rounds: int = 9


_INT8 = Part(_SHAPES, _ROWS, ("int8", "dense"))
_FLOAT = (
    Part(_SHAPES, (1, 8, 16, 128, 512), ("fp32-n16", "fp32-n32")),
    Part(_SHAPES, (8, 128, 512), ("bf16", "fp32-n32"), (0.75, 0.875)),
    Part(_SHAPES, (64, 128, 512), ("csr", "fp32-any")),
)
_MASKS = (
    Part(_SHAPES, (8, 16, 128, 512), ("int8-any", "int8-snap")),
    Part(("minilm",), (8, 16, 128, 512), ("int8-any", "int8-snap")),
)

#: By the name that the command knows.
PRESETS: Mapping[str, Preset] = {
    "quick": Preset(
        (Part(("768x3072", "3072x768"), (1, 16, 128), ("int8", "dense"), (0.5, 0.75, 0.875)),), 5
    ),
    "readme": Preset(
        (
            Part(
                ("768x3072", "3072x768", "4096x4096"),
                (1, 128),
                ("int8", "dense"),
                (0.5, 0.75, 0.875),
                ("dense int8", "dense fp32"),
            ),
            Part(("768x3072", "3072x768", "4096x4096"), (1, 128), ("fp32-n16",)),
        )
    ),
    "int8": Preset((_INT8,)),
    "masks": Preset(_MASKS),
    "float": Preset(_FLOAT, 7),
    "full": Preset((_INT8, *_MASKS, *_FLOAT), 7),
}

#: The layer whose time is the fixed cost of a call.
SMALLEST = Layer(16, 16)


@dataclass(frozen=True)
class PlannedPoint:
    """A layer at a number of rows and threads, and who computes it."""

    layer: Layer
    rows: int
    threads: int
    contenders: tuple[Contender[LinearProblem], ...]

    def seconds(self, timing: Timing) -> float:
        """About how long it takes, for the progress bar."""
        size = self.layer.inputs * self.layer.outputs
        total = 0.0
        for contender in self.contenders:
            if contender.kind == "rate":
                total += timing.seconds(5e-4)
                continue
            rate = 8e11 if "int8" in contender.kind else 1.2e11  # multiply-adds a second
            kept = 1.0 - (contender.sparsity or 0.0)
            call = 1e-5 + size * kept * self.rows / rate / self.threads * 2
            total += timing.seconds(call) + 0.05 + 3e-8 * size  # building, checking
        return total


def plan(parts: Iterable[Part], threads: Iterable[int], peers: Iterable[str]) -> list[PlannedPoint]:
    """The points of some parts, each once, layer by layer, and the smallest layer first.

    Args:
        threads: each point is measured with each of these counts.
        peers: packages of the others, of :data:`PEERS`.
    """
    parts, wanted = list(parts), set(peers)
    others = [peer for package in PEERS if package in wanted for peer in _peers_of(package)]
    points: dict[tuple[Layer, int, int], list[Contender[LinearProblem]]] = {}
    for count in threads:
        for part in parts:
            there = points.setdefault((SMALLEST, 1, count), [])
            families = {contender.family for contender in there if contender.ours}
            new = _unlike(there, _contenders(part, others, count))
            there += [c for c in _first_of_family(new) if c.family not in families]
        for part in parts:
            new = _contenders(part, others, count)
            for layer in layers_of(part.shapes):
                for rows in part.rows:
                    there = points.setdefault((layer, rows, count), [])
                    there += _unlike(there, new)
    planned = [PlannedPoint(*key, tuple(who)) for key, who in points.items()]
    order = {point.layer: index for index, point in reversed(list(enumerate(planned)))}
    planned.sort(key=lambda p: (order[p.layer], -p.threads, p.rows))
    return planned


_Contenders = list[Contender[LinearProblem]]


def _unlike(there: _Contenders, new: _Contenders) -> _Contenders:
    """Those that are not there yet."""
    names = {contender.name for contender in there}
    return [contender for contender in new if contender.name not in names]


def _first_of_family(contenders: _Contenders) -> _Contenders:
    """Of ours one sparsity each: on the smallest layer they are all alike."""
    first = {c.family: c for c in reversed(contenders) if c.ours}
    return [c for c in contenders if not c.ours or first[c.family] is c]


def _contenders(
    part: Part, others: list[Contender[LinearProblem]], threads: int
) -> list[Contender[LinearProblem]]:
    ours = our_contenders(part.formats, part.sparsities)
    against = set(part.against) or {rival for c in ours for rival in _rivals(c.kind)}
    rates = ["vpdpbusd"] if "dense int8" in against else []
    rates += ["fma"] if "dense fp32" in against else []
    return [
        *ours,
        *(peer for peer in others if peer.kind in against),
        *rate_contenders(rates, threads),
    ]


def _rivals(kind: Kind) -> tuple[Kind, ...]:
    if kind in ("sparse int8", "dense int8"):
        return ("dense int8",)
    return ("dense fp32", "dense bf16") if kind == "sparse bf16" else ("dense fp32",)


def _peers_of(package: str) -> list[Contender[LinearProblem]]:
    makers = {
        "torch": torch_peers,
        "onnxruntime": onnx_runtime_peers,
        "openvino": openvino_peers,
    }
    return makers[package]()


def layers_of(shapes: Iterable[str]) -> list[Layer]:
    """The layers that some words stand for.

    Raises:
        ValueError: a word is neither "<in>x<out>" nor "minilm".
    """
    layers = []
    for text in shapes:
        if text == "minilm":
            layers += [Layer(*size, name) for name, size in TRAINED.items()]
            continue
        parts = text.lower().split("x")
        if len(parts) != 2:
            raise ValueError(
                f"a shape is <in>x<out> such as 768x3072, got {text!r}; the only name is minilm"
            )
        layers.append(Layer(_size(parts[0], "in features"), _size(parts[1], "out features")))
    if not layers:
        raise ValueError("at least one shape is needed, such as 768x3072")
    return layers


def _size(text: str, what: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{what} must be a whole number of at least 1, got {text!r}")
    return int(text)


def trained_weight(name: str, definitions: str) -> Tensor:
    """The weight of a layer of MiniLM, fp32 [outputs, inputs].

    Raises:
        ImportError, FileNotFoundError: something that it needs is missing; the message says what.
    """
    layer = _minilm(definitions).get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer.weight.detach().clone()


@cache
def _minilm(definitions: str) -> nn.Module:
    return load_definitions(definitions)["minilm"].build()
