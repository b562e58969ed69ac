"""What was measured and chosen, as data that a file can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sparsekd import backend
from sparsekd.benchmark import Samples, format_times
from sparsekd.choice._break_even import BreakEven
from sparsekd.choice._decide import MARGIN
from sparsekd.choice._options import Option
from sparsekd.choice._table import plain_table
from sparsekd.environment import cpu_model

__all__ = ["Call", "Figure", "LayerChoice", "Machine", "TuneReport"]


@dataclass(frozen=True)
class Machine:
    """What times depend on: figures hold where all three are the same.

    Attributes:
        cpu: the processor's own name.
        isa: the instruction set that the engine used.
        threads: torch's thread count.
    """

    cpu: str
    isa: str
    threads: int

    @classmethod
    def here(cls) -> Machine:
        """This one, as it is set up now."""
        return cls(cpu_model(), backend.isa(), torch.get_num_threads())

    def unlike(self, other: Machine) -> str:
        """What differs, in words; "" where figures of one hold on the other."""
        words = {"cpu": "processor", "isa": "instruction set", "threads": "number of threads"}
        return " and ".join(w for k, w in words.items() if getattr(self, k) != getattr(other, k))

    def __str__(self) -> str:
        return f"{self.cpu}, {self.threads} thread{'s' * (self.threads != 1)}, ISA {self.isa}"


@dataclass(frozen=True)
class Call:
    """An input that a layer got in a run of the example inputs, and how often.

    Attributes:
        shape: of the input, batch first.
        channels_last: whether an image came with its channels last in memory.
        count: calls a run.
    """

    shape: tuple[int, ...]
    channels_last: bool
    count: int

    def __str__(self) -> str:
        text = "×".join(map(str, self.shape)) + (" nhwc" if self.channels_last else "")
        return text if self.count == 1 else f"{self.count} of {text}"


@dataclass(frozen=True)
class Figure:
    """The time of one option: of all calls of the layer in one run of the example inputs.

    Attributes:
        kernel, window: which option; see :class:`Option`.
        median_s, p10_s, p90_s: seconds, over the rounds.
    """

    kernel: str
    window: int | None
    median_s: float
    p10_s: float
    p90_s: float

    @classmethod
    def of(cls, option: Option, times: Sequence[float]) -> Figure:
        """From the times of an option in each round."""
        samples = Samples(tuple(times))
        return cls(option.kernel, option.window, samples.median, samples.p10, samples.p90)

    @property
    def option(self) -> Option:
        """What was timed."""
        return Option(self.kernel, self.window)

    def __str__(self) -> str:
        return f"{self.option} {format_times(Samples((self.median_s,)))[0]} ms"


@dataclass(frozen=True)
class LayerChoice:
    """What a layer got, and why.

    Attributes:
        name: dotted name of the layer in the model, "" for the model itself.
        scheme: its arithmetic, such as "int8 dynamic".
        kernel, window: the option that was chosen.
        reason: why, in a few words.
        calls: the inputs that it got; empty where the example inputs do not reach it.
        alike: how many layers of the model, this one among them, are equal in all that matters;
            they were measured together, and the figures are their mean.
        figures: of every option that fits, fastest first; empty where there was no choice.
        break_even: the sparsity from which the windowed format wins, if it was asked for.
    """

    name: str
    scheme: str
    kernel: str
    window: int | None
    reason: str
    calls: tuple[Call, ...] = ()
    alike: int = 1
    figures: tuple[Figure, ...] = ()
    break_even: BreakEven | None = None

    @property
    def option(self) -> Option:
        """What was chosen."""
        return Option(self.kernel, self.window)

    def to_dict(self) -> dict[str, Any]:
        """Everything as dicts, lists, strings and numbers."""
        fields = asdict(self)
        fields["calls"] = [{**asdict(call), "shape": list(call.shape)} for call in self.calls]
        fields["figures"] = [asdict(figure) for figure in self.figures]
        return fields

    def __str__(self) -> str:
        """The reason with its figures, in one line."""
        if not self.figures:
            return self.reason
        return f"{self.reason} (measured: {', '.join(map(str, self.figures))})"


@dataclass(frozen=True)
class TuneReport:
    """The choice for each layer of a model: what :func:`sparsekd.tune` returns.

    ``convert(model, kernel=report)`` follows it. ``str(report)`` is a plain table, ``to_dict()``
    the same as JSON-ready data.

    Attributes:
        layers: one for each layer that the engine could run, in the model's order.
        machine: where it was measured.
    """

    layers: tuple[LayerChoice, ...]
    machine: Machine

    def __getitem__(self, name: str) -> LayerChoice:
        """The choice for one layer.

        Raises:
            KeyError: no layer has that name.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no layer named {name!r} in the tune report")

    def to_dict(self) -> dict[str, Any]:
        """Everything as dicts, lists, strings and numbers."""
        return {
            "layers": [layer.to_dict() for layer in self.layers],
            "machine": asdict(self.machine),
        }

    def __str__(self) -> str:
        head = ["layer", "scheme", "inputs", "kernel", "ms a run, fastest first", "why"]
        probed = any(layer.break_even is not None for layer in self.layers)
        rows = [
            [
                (layer.name or "(model)") + (f" (of {layer.alike})" if layer.alike > 1 else ""),
                layer.scheme,
                ", ".join(map(str, layer.calls)) or "-",
                str(layer.option),
                ", ".join(map(str, layer.figures)).replace(" ms", "") or "-",
                layer.reason,
                *([str(layer.break_even or "-")] if probed else []),
            ]
            for layer in self.layers
        ]
        if probed:
            head.append("windowed wins from")
        notes = [f"measured inside the model on {self.machine}"]
        notes.append(f"a dense kernel stays unless another one is {MARGIN:g} times as fast")
        return "\n".join([plain_table(head, rows), *notes])
