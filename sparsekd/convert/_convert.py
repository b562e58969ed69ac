"""``convert``: puts engine layers where the model's data flow and schemes allow it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn

from sparsekd.choice import TuneReport
from sparsekd.convert._checks import refuse_hooks, refuse_outside_ties
from sparsekd.convert._decision import decide, replacements
from sparsekd.convert._inputs import run_all, runs_of
from sparsekd.convert._padding import padding_note
from sparsekd.convert._plan import Request, make_plan
from sparsekd.convert._restore import substitute
from sparsekd.convert._rows import report_of
from sparsekd.convert._ties import share_ties
from sparsekd.convert._trial import SECONDS, measure_plan
from sparsekd.modules import Selector
from sparsekd.spec import Scheme

__all__ = ["convert"]


def convert(
    model: nn.Module,
    example_inputs: object = None,
    *,
    scheme: Scheme | str = "auto",
    kernel: str | TuneReport = "auto",
    include: Selector | Iterable[Selector] = (),
    exclude: Selector | Iterable[Selector] = (),
    allow_float: bool = False,
    inplace: bool = False,
) -> nn.Module:
    """Put the engine's layers in the place of ``nn.Linear``, ``nn.Conv1d`` and ``nn.Conv2d``.

    Masks are applied first; weights may be sparse tensors or pruned with ``torch.nn.utils.prune``.
    What follows a layer runs inside it where it is the only user of the layer's output and both
    are called exactly once: a BatchNorm after a float layer (its running statistics go into weight
    and bias), then an activation module (``nn.ReLU``, ``nn.ReLU6``, ``nn.GELU()``, ``nn.SiLU``,
    ``nn.Hardswish``). An ``nn.Identity`` stays in their place. Activation functions (``F.relu``)
    are part of the forward code and stay. Layers that can not be converted stay as they are, with
    the reason in the report. The result is in eval mode, and to be called without gradients
    (``torch.inference_mode()``): the engine does not train.

    Args:
        model: any model; a deep copy is converted.
        example_inputs: a tensor, a tuple (positional) or a dict (keywords), or a list of these,
            one for each call that the model is to be fast at. With kernel="auto" every layer's
            options are timed on them inside the model (half a minute at most; ``sparsekd.tune`` has
            the settings), and the converted model is run on them once, so that a model which
            reads a replaced weight by itself fails here.
        scheme: of layers that are not fake-quantized; these have their own. "auto" is fp32; "int8"
            or ``Int8()`` quantizes them, with dynamic activations; "bf16".
        kernel: "auto", what ``sparsekd.tune`` returned, a kernel of the scheme (int8: "windowed",
            "dense", "depthwise"; fp32: "windowed", "csr", "depthwise"; bf16: "windowed"), or
            "torch" (leave the layers). "auto" is the fastest option on the example inputs:
            dense int8 (in fp32 and bf16 torch's own layer) unless another one is 1.1 times as
            fast. Without example inputs it is a rule of thumb for the instruction set in use, and
            the report says "not measured": int8 windowed where it packs into few enough of
            dense's groups (half of them with AVX512-VBMI), "depthwise" where each channel is a
            group, else dense; fp32 csr from 95 % zeros on (Linear, 1x1), windowed from 60 %, else
            torch; bf16 likewise.
        include, exclude: layers by name glob or type; see :func:`sparsekd.modules.select`.
        allow_float: let a float layer stay in float although an int8 scheme was asked for, with
            ``kernel="torch"`` or where that is measured to be faster; the report flags it.
        inplace: convert ``model`` itself.

    Returns:
        the converted model; its ``sparsekd_report`` has a row for every leaf module.

    Raises:
        ValueError: an unknown scheme or kernel, or one that does not go with the other or with a
            layer, a report of ``tune`` on other layers or schemes, a selector that matches nothing,
            foreign hooks on a layer to be replaced, a tie to a tensor that stays, weights that are
            not finite, a static scheme without calibrated ranges.
        TypeError: ``model`` is no module or can not be copied.
        RuntimeError: the converted model fails on ``example_inputs``.

    >>> converted = sparsekd.convert(model, scheme="int8")
    >>> print(converted.sparsekd_report)
    """
    given = kernel if isinstance(kernel, TuneReport) else None
    request = Request.of(model, scheme, str(kernel) if given is None else "auto", allow_float)
    runs = None if example_inputs is None else runs_of(example_inputs)
    plan = make_plan(model, request, include, exclude, engines=given is not None)
    tuning = given
    if tuning is None and runs is not None and request.kernel == "auto":
        owned = inplace or plan.view is not model
        tuning = measure_plan(plan, runs, allow_float=allow_float, owned=owned, seconds=SECONDS)
    decision = decide(plan, request.kernel, tuning)
    replaced = decision.replaced(plan)
    refuse_hooks(replaced)
    refuse_outside_ties(model, {name: model.get_submodule(name) for name in replaced})
    layers = {name: plan.parts[name].layer for name in decision.engines}
    share_ties(layers, decision.engines)
    new = replacements(model, plan, decision)
    flags = [(module, module.training) for module in model.modules()]
    result = substitute(model, new, inplace=inplace).eval()
    if runs is not None:
        try:
            run_all(result, runs)
        except Exception:
            if inplace:
                _undo(model, new, flags)
            raise
    if tuning is not None:
        held = tuple(choice for choice in tuning.layers if choice.name in plan.parts)
        tuning = replace(tuning, layers=held)
    parts = plan.parts
    made = {name: e for name, e in decision.engines.items() if parts[name].current is None}
    result.sparsekd_report = report_of(  # type: ignore[assignment]
        plan.view,
        decision.engines,
        decision.reasons,
        decision.absorbed(plan),
        plan.stay,
        plan.chains.failure,
        tuning,
        padding_note(made),
    )
    return result


def _undo(
    model: nn.Module, new: Mapping[int, nn.Module], flags: list[tuple[nn.Module, bool]]
) -> None:
    old = {id(new[id(module)]): module for module, _ in flags if id(module) in new}
    substitute(model, old, inplace=True)
    for module, training in flags:
        module.training = training
