"""``tune``: measures, for each layer of a model, every kernel that fits it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from sparsekd.choice import TuneReport
from sparsekd.convert import SECONDS, Request, make_plan, measure_plan, runs_of
from sparsekd.modules import Selector
from sparsekd.spec import Scheme

__all__ = ["TuneReport", "tune"]


def tune(
    model: nn.Module,
    example_inputs: object,
    *,
    scheme: Scheme | str = "auto",
    include: Selector | Iterable[Selector] = (),
    exclude: Selector | Iterable[Selector] = (),
    allow_float: bool = False,
    break_even: bool = False,
    seconds: float = SECONDS,
    progress: bool = False,
) -> TuneReport:
    """Time the options of every layer where they will run, and choose.

    The whole model runs on the example inputs while the options of its layers take turns in their
    places (what may run inside a layer, a BatchNorm or an activation, with them). So each option is
    timed on the inputs, in the memory formats and with the caches as cold as the rest of the model
    leaves them; an input size that comes more often counts more. Options are compared round by
    round; measuring ends as soon as more rounds would change nothing. Layers that are equal in all
    that matters are decided together.

    Options are the formats of the layer's scheme that take no more bytes than the dense form, in
    fp32 and bf16 torch's own layer as well. The dense one (int8: dense or depthwise, else torch's)
    stays unless another one is 1.1 times as fast. For an engine layer, from ``convert`` or
    ``load``, they are the formats that its weight can be put into without a change; and torch, if
    it is fp32 or bf16 and no BatchNorm is part of it.

    Args:
        model: float, fake-quantized, or with engine layers; it is left as it is.
        example_inputs: a tensor, a tuple (positional) or a dict (keywords), or a list of these, one
            for each call that the model is to be fast at.
        scheme, include, exclude, allow_float: as for :func:`sparsekd.convert`, which is to get the
            same ones.
        break_even: find for each layer the sparsity from which the windowed format wins, with
            random n:m masks of 50, 75 and 87.5 %. It takes about twice as long, and the model runs
            with random weights meanwhile.
        seconds: how long to measure, at most; one round is finished in any case.
        progress: show a bar on a terminal.

    Returns:
        the choices with all figures; ``convert(model, kernel=report)`` follows them.

    Raises:
        ValueError, TypeError: as ``convert`` does.
        RuntimeError: the model fails on ``example_inputs``.

    >>> report = sparsekd.tune(model, torch.randn(32, 768), scheme="int8")
    >>> print(report)
    >>> fast = sparsekd.convert(model, scheme="int8", kernel=report)
    """
    if seconds <= 0:
        raise ValueError(f"tune needs seconds > 0, got {seconds}")
    request = Request.of(model, scheme, "auto", allow_float)
    plan = make_plan(model, request, include, exclude, engines=True)
    return measure_plan(
        plan,
        runs_of(example_inputs),
        allow_float=allow_float,
        owned=plan.view is not model,
        seconds=seconds,
        probes=break_even,
        progress=progress,
    )
