"""The manifest's record of how kernels were chosen, and what becomes of it on loading."""

from __future__ import annotations

import glob
import warnings
from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from torch import nn

from sparsekd.choice import BreakEven, Call, Figure, LayerChoice, Machine, TuneReport
from sparsekd.convert import LAYERS, ConversionReport, EngineLayer, convert, report_of
from sparsekd.io._strict import Name, Strict
from sparsekd.tune import tune

__all__ = ["TuningEntry", "chosen_for_here", "record_of"]

_Kernel = Literal["windowed", "dense", "depthwise", "csr", "torch"]
_Text = Annotated[str, StringConstraints(max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*$")]
_Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
_Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
_Size = Annotated[int, Field(ge=0, le=2**48)]


class CallEntry(Strict):
    """A :class:`sparsekd.choice.Call`."""

    shape: Annotated[list[_Size], Field(max_length=8)]
    channels_last: bool
    count: _Count


class FigureEntry(Strict):
    """A :class:`sparsekd.choice.Figure`."""

    kernel: _Kernel
    window: Literal[16, 32] | None
    median_s: _Seconds
    p10_s: _Seconds
    p90_s: _Seconds


class BreakEvenEntry(Strict):
    """A :class:`sparsekd.choice.BreakEven`."""

    sparsity: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
    side: Literal["at", "below", "above"]


class ChoiceEntry(Strict):
    """A :class:`sparsekd.choice.LayerChoice`, its name apart."""

    scheme: Literal["int8 dynamic", "int8 static", "fp32", "bf16"]
    kernel: _Kernel
    window: Literal[16, 32] | None
    reason: _Text
    calls: list[CallEntry]
    alike: _Count
    figures: list[FigureEntry]
    break_even: BreakEvenEntry | None

    def choice(self, name: str) -> LayerChoice:
        """The choice itself."""
        turn = self.break_even
        return LayerChoice(
            name,
            self.scheme,
            self.kernel,
            self.window,
            self.reason,
            tuple(Call(tuple(c.shape), c.channels_last, c.count) for c in self.calls),
            self.alike,
            tuple(Figure(f.kernel, f.window, f.median_s, f.p10_s, f.p90_s) for f in self.figures),
            None if turn is None else BreakEven(turn.sparsity, turn.side),
        )


class TuningEntry(Strict):
    """A :class:`sparsekd.choice.TuneReport`."""

    cpu: _Text
    isa: _Text
    threads: _Count
    layers: dict[Name, ChoiceEntry]

    def report(self) -> TuneReport:
        """The report itself."""
        choices = tuple(entry.choice(name) for name, entry in self.layers.items())
        return TuneReport(choices, Machine(self.cpu, self.isa, self.threads))


def record_of(model: nn.Module) -> TuningEntry | None:
    """What ``convert`` or ``load`` measured of a model, as far as its layers are still those."""
    report = model.__dict__.get("sparsekd_report")
    tuning = report.tuning if isinstance(report, ConversionReport) else None
    if tuning is None:
        return None
    modules = dict(model.named_modules())
    layers = {c.name: _entry(c) for c in tuning.layers if _holds(c, modules.get(c.name))}
    machine = tuning.machine
    return TuningEntry(cpu=machine.cpu, isa=machine.isa, threads=machine.threads, layers=layers)


def _entry(choice: LayerChoice) -> ChoiceEntry:
    fields = choice.to_dict()
    del fields["name"]
    return ChoiceEntry.model_validate(fields)


def _holds(choice: LayerChoice, module: nn.Module | None) -> bool:
    if isinstance(module, EngineLayer):
        return choice.kernel == module.kernel
    return choice.kernel == "torch" and isinstance(module, LAYERS)


def chosen_for_here(
    model: nn.Module, tuning: TuneReport | None, example_inputs: object
) -> nn.Module:
    """Measure choices of another machine again, or say that they are; the model with a report.

    Args:
        example_inputs: None to keep the choices of the file.
    """
    other = "" if tuning is None else tuning.machine.unlike(Machine.here())
    if example_inputs is not None and (tuning is None or other):
        names = [] if tuning is None else [glob.escape(choice.name) for choice in tuning.layers]
        report = tune(model, example_inputs, include=names)
        return convert(model, kernel=report, inplace=not isinstance(model, EngineLayer))
    choices = {} if tuning is None else {choice.name: choice for choice in tuning.layers}
    reasons, stay = {}, {}
    for name, module in model.named_modules():
        reason = str(choices[name]) if name in choices else "as in the file"
        if isinstance(module, EngineLayer):
            reasons[name] = reason
        elif isinstance(module, LAYERS):
            stay[id(module)] = reason
    report_now = report_of(model, {}, reasons, {}, stay, "", tuning)
    model.sparsekd_report = report_now  # type: ignore[assignment]
    if tuning is not None and other:
        warnings.warn(
            f"the kernels of this file were measured with another {other} ({tuning.machine}; this "
            f"is {Machine.here()}): load it with example_inputs to measure again",
            stacklevel=4,
        )
    return model
