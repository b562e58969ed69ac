"""Measures the options of a plan's parts inside the model that they would make."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import nn

from sparsekd.choice import (
    MARGIN,
    Contest,
    Figure,
    LayerChoice,
    Machine,
    Option,
    Trial,
    TuneReport,
    break_even,
    measure,
)
from sparsekd.convert._checks import refuse_hooks
from sparsekd.convert._choose import choose
from sparsekd.convert._inputs import Run, run_all
from sparsekd.convert._kinds import scheme_text, sizes_of
from sparsekd.convert._options import PROBES, default_of, options_of, probe_of
from sparsekd.convert._parts import TORCH, Part
from sparsekd.convert._plan import Plan
from sparsekd.convert._restore import substitute
from sparsekd.spec import Int8
from sparsekd.whole_cores import watch_cores

__all__ = ["SECONDS", "measure_plan"]

SECONDS = 30.0  # of measuring, for a whole model


def measure_plan(
    plan: Plan,
    runs: Sequence[Run],
    *,
    allow_float: bool,
    owned: bool,
    seconds: float,
    probes: bool = False,
    progress: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> TuneReport:
    """Choose an option for every part by measurement.

    Args:
        runs: the example inputs.
        allow_float: torch's layer is an option where int8 was asked for.
        owned: the view may be worked on (and is put back); else a copy that shares parameters is.
        probes: time stand-ins of a few sparsities as well, for the one from which sparse wins.
        seconds, progress: see :func:`sparsekd.choice.measure`.

    Raises:
        ValueError: foreign hooks on a layer that may be replaced.
        TypeError: the model can not be copied and is not owned.
        RuntimeError: the model fails on the example inputs.
    """
    options = {name: options_of(part, allow_float=allow_float) for name, part in plan.parts.items()}
    owners = Counter(part.weight_id for part in plan.parts.values())
    contests = {}
    for name, part in plan.parts.items():
        modules = {option: part.modules(option) for option in options[name]}
        if probes and any(o.kernel in ("windowed", "dense", "torch") for o in options[name]):
            rest = [nn.Identity() for _ in part.places[1:]]
            for sparsity in PROBES:
                option, probe = probe_of(part, sparsity)
                modules[option] = (probe, *rest)
        if len(modules) > 1:
            contests[name] = Contest(
                name,
                default_of(part),
                modules,
                key=_key(part, options[name]),
                tie=part.weight_id if owners[part.weight_id] > 1 else None,
                clock=clock,
            )
    refuse_hooks({name: plan.parts[name].layer for name in contests})
    switches = {}
    for name, contest in contests.items():
        for place, switch in zip(plan.parts[name].places, contest.switches, strict=True):
            switches[id(plan.view.get_submodule(place))] = switch
    with _working_model(plan.view, switches, owned) as model:
        trials = measure(
            list(contests.values()),
            lambda: run_all(model, runs),
            seconds=seconds,
            progress=progress,
            # A made-up clock knows of no cores.
            guard=watch_cores(torch.get_num_threads()) if clock is time.perf_counter else None,
        )
    choices = []
    for name, part in plan.parts.items():
        choice = _choice(part, options[name], trials.get(name))
        part.forget(but=choice.option)
        choices.append(choice)
    return TuneReport(tuple(choices), Machine.here())


def _choice(part: Part, options: Sequence[Option], trial: Trial | None) -> LayerChoice:
    if trial is None:
        (option,) = options
        zeros = f"{1 - part.kept:.0%} of the weights are zero"
        return _named(part, option, f"no other format fits: {zeros}")
    if trial.chosen is None:
        option, reason = choose(part)
        return _named(part, option, f"{reason}; the example inputs do not reach it")
    figures = [Figure.of(o, trial.seconds[o]) for o in trial.seconds if o.probe is None]
    figures.sort(key=lambda figure: figure.median_s)
    default = default_of(part)
    probed = {o.probe: median(t) for o, t in trial.seconds.items() if o.probe is not None}
    turn = None
    if probed and default is not None:
        turn = break_even(probed, median(trial.seconds[default]) / MARGIN)
    return _named(
        part,
        trial.chosen,
        _reason(part, trial.chosen, default, trial.seconds),
        calls=trial.calls,
        alike=trial.alike,
        figures=tuple(figures),
        break_even=turn,
    )


def _named(part: Part, option: Option, reason: str, **measured: Any) -> LayerChoice:
    option = part.settled(option)
    if option == TORCH and isinstance(part.scheme, Int8):
        reason += "; float although int8 was asked for"
    arithmetic = scheme_text(part.scheme)
    return LayerChoice(part.name, arithmetic, option.kernel, option.window, reason, **measured)


def _reason(
    part: Part, chosen: Option, default: Option | None, seconds: Mapping[Option, Sequence[float]]
) -> str:
    times = {o: median(t) for o, t in seconds.items() if o.probe is None}
    others = [o for o in times if o != chosen]
    if not others:
        zeros = f"{1 - part.kept:.0%} of the weights are zero"
        return f"no other format fits: {zeros}"
    if chosen == default:
        rival = min(others, key=lambda o: times[o])
        if times[rival] < times[chosen]:
            ratio = times[chosen] / times[rival]
            return f"{rival} is {ratio:.2f} times as fast, too little to give up {default} for"
        return "fastest"
    if default is None:
        return "fastest"
    return f"{times[default] / times[chosen]:.2f} times as fast as {default}"


def _key(part: Part, options: Sequence[Option]) -> object:
    """Layers of one key take equally long with each option, if they get equal inputs."""
    engines = [part.engine(option) for option in options if option != TORCH]
    dense = 4 * max(part.weights, 1)
    return (
        type(part.layer).__name__,
        str(sorted(sizes_of(part.layer).items())),
        part.scheme,
        part.layer.bias is None,
        part.norm is None,
        engines[0].activation if engines else None,
        # Arbitrary masks pad differently in each layer: by a hundredth it does not matter.
        tuple((o, round(part.engine(o).packed_bytes() / dense, 2)) for o in options if o != TORCH),
    )


@contextmanager
def _working_model(
    view: nn.Module, switches: Mapping[int, nn.Module], owned: bool
) -> Iterator[nn.Module]:
    """The model in eval mode with switches in place; afterwards the view is as it was."""
    if id(view) in switches:
        yield switches[id(view)].eval()
        return
    if not owned:
        memo: dict[int, Any] = {id(parameter): parameter for parameter in view.parameters()}
        memo.update(switches)
        try:
            model = copy.deepcopy(view, memo)
        except Exception as error:  # whatever a user's attribute raises when copied
            raise TypeError(
                f"{type(view).__name__} can not be deep-copied ({error}); pass inplace=True"
            ) from error
        yield model.eval()
        return
    modules = [(module, module.training) for module in view.modules()]
    try:
        yield substitute(view, switches, inplace=True).eval()
    finally:
        back = {id(switches[id(m)]): m for m, _ in modules if id(m) in switches}
        substitute(view, back, inplace=True)
        for module, training in modules:
            module.training = training
