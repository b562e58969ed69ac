"""sparsekd's own Linear layers as contenders, in every format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from sparsekd import backend
from sparsekd.bench.linear_problem import LinearProblem
from sparsekd.bench.peers import Engine, module_engine, version_of
from sparsekd.bench.record import Kind
from sparsekd.bench.runner import Contender
from sparsekd.modules import weight_mask
from sparsekd.nn import Linear
from sparsekd.prune import prune_, snap_
from sparsekd.spec import NM, Bf16, Fp32, Int8, Pattern, Scheme, Unstructured

__all__ = ["FORMATS", "LinearFormat", "format_named", "our_contenders", "pattern_of"]


@dataclass(frozen=True)
class LinearFormat:
    """A format of weights with the masks that it is measured with.

    Attributes:
        family: the title of its figures.
        pattern: of a sparsity; None for dense weights.
        sparsities: measured where none are asked for.
        snap: fit the masks to n:64 (``prune.snap_``).
    """

    family: str
    kind: Kind
    scheme: Scheme
    kernel: str
    pattern: Callable[[float], Pattern] | None = None
    sparsities: tuple[float, ...] = ()
    snap: bool = False

    def check(self, sparsity: float) -> None:
        """Raises ValueError where no pattern of this format has that sparsity."""
        if self.pattern is not None:
            self.pattern(sparsity)


def pattern_of(sparsity: float, group: int = 32) -> NM:
    """The n:``group`` pattern of that sparsity.

    >>> str(pattern_of(0.875))
    '4:32'
    """
    kept = round((1.0 - sparsity) * group)
    if not 1 <= kept < group or abs(kept / group - (1.0 - sparsity)) > 1e-6:
        raise ValueError(
            f"sparsity {sparsity!r} is no n:{group} pattern; it must be a multiple of "
            f"1/{group} between 0 and 1, such as 0.5, 0.75 or 0.875"
        )
    return NM(kept, group)


def _any_mask(sparsity: float) -> Unstructured:
    if not 0.0 < sparsity < 1.0:
        raise ValueError(f"sparsity {sparsity!r} must lie between 0 and 1")
    return Unstructured(sparsity)


_OF_16 = partial(pattern_of, group=16)
_STEPS = (0.5, 0.75, 0.875, 0.9375)

#: By the name that the command knows. "any": the largest weights of the layer, wherever they stand;
#: of random weights that is a random mask. Sparsities are those before snapping.
FORMATS = {
    "int8": LinearFormat("int8 n:32", "sparse int8", Int8(), "windowed", pattern_of, _STEPS),
    "dense": LinearFormat("dense int8", "dense int8", Int8(), "dense"),
    "int8-any": LinearFormat(
        "int8 any mask", "sparse int8", Int8(), "windowed", _any_mask, (0.8, 0.9)
    ),
    "int8-snap": LinearFormat(
        "int8 any mask, snapped", "sparse int8", Int8(), "windowed", _any_mask, (0.8, 0.9), True
    ),
    "fp32-n16": LinearFormat(
        "fp32 n:16", "sparse fp32", Fp32(window=16), "windowed", _OF_16, _STEPS[:3]
    ),
    "fp32-n32": LinearFormat(
        "fp32 n:32", "sparse fp32", Fp32(window=32), "windowed", pattern_of, _STEPS[:3]
    ),
    "fp32-any": LinearFormat(
        "fp32 any mask", "sparse fp32", Fp32(), "windowed", _any_mask, (0.9, 0.98)
    ),
    "bf16": LinearFormat("bf16 n:32", "sparse bf16", Bf16(), "windowed", pattern_of, _STEPS[1:3]),
    "csr": LinearFormat("csr fp32", "sparse fp32", Fp32(), "csr", _any_mask, (0.9, 0.98)),
}


def format_named(name: str) -> LinearFormat:
    """A format by its name.

    Raises:
        ValueError: it is unknown; the message lists the names.
    """
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; choose among {', '.join(FORMATS)}")
    return FORMATS[name]


def our_contenders(
    names: Iterable[str], sparsities: Iterable[float] = ()
) -> list[Contender[LinearProblem]]:
    """Our layers in some formats.

    Args:
        names: keys of FORMATS.
        sparsities: of every sparse format; none: those that each is usually measured with.

    Raises:
        ValueError: an unknown format, or a sparsity that it does not have.
    """
    asked = tuple(sparsities)
    made = []
    for name in names:
        form = format_named(name)
        if form.pattern is None:
            build = partial(_build, form, None)
            made.append(Contender(f"sparsekd {form.family}", form.kind, build, True, form.family))
            continue
        for sparsity in asked or form.sparsities:
            pattern = form.pattern(sparsity)
            made.append(
                Contender(
                    f"sparsekd {name} {pattern}",
                    form.kind,
                    partial(_build, form, pattern),
                    ours=True,
                    family=form.family,
                    sparsity=sparsity,
                )
            )
    return made


def _build(form: LinearFormat, pattern: Pattern | None, problem: LinearProblem) -> Engine:
    def make() -> tuple[Linear, Tensor | None]:
        float_layer = problem.linear()
        if pattern is not None:
            prune_(float_layer, pattern)
        if form.snap:
            snap_(float_layer)
        layer = Linear.from_float(float_layer, scheme=form.scheme, kernel=form.kernel)
        return layer.eval(), weight_mask(float_layer)

    layer, mask = problem.once(f"ours {form.family} {pattern}", make)
    outputs, inputs = problem.weight.shape
    kept = problem.weight.numel() if mask is None else int(mask.sum())
    config = {
        "threads": problem.threads,
        "isa": backend.isa(),
        "kernel": layer.kernel,
        "scheme": str(layer.scheme),
        "kept weights": kept,
        "packed bytes": layer.packed_bytes(),
        "filled": round(layer.efficiency(), 4),
    }
    return module_engine(
        layer,
        problem.inputs,
        version=version_of("sparsekd"),
        config=config,
        weight=None if mask is None else problem.weight * mask,
        work=kept * problem.rows,
        moved=layer.packed_bytes() + 4 * problem.rows * (inputs + outputs),
    )
