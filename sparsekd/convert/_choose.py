"""Which kernel a layer gets where nothing was measured: rules of thumb, and the report says so.

Where a sparse kernel begins to win depends on the instruction set, so the rules look at the one in
use; docs/kernels.md has the figures behind them.
"""

from __future__ import annotations

from sparsekd import backend
from sparsekd.choice import Option
from sparsekd.convert._kinds import is_depthwise, is_pointwise
from sparsekd.convert._parts import TORCH, Part
from sparsekd.spec import Fp32, Int8, Scheme

__all__ = ["KERNELS", "check_kernel", "choose"]

KERNELS = ("auto", "windowed", "dense", "depthwise", "csr", "torch")

# Groups of 16 outputs x 4 inputs that the windowed int8 form may fill, as a share of all, which is
# what dense fills: 0.5 is an n:m mask of 50 %. It is the faster one from there on with AVX512-VBMI;
# without, a window takes two to four shuffles instead of one, and with VNNI alone dense has an
# instruction more than windowed can use. Beyond 0.5 it would take more bytes as well.
_WINDOWED_SHARE = {
    "avx512_bf16": 0.5,
    "avx512_vbmi": 0.5,
    "avx512_vnni": 0.2,
    "avx512": 0.33,
    "avx2": 0.35,
    "scalar": 0.5,
}
_WINDOWED_ZEROS = 0.60  # fp32 and bf16, against torch's dense layer
_CSR_ZEROS = 0.95  # fp32; from here on padding in the steps of windowed costs more than indices


def check_kernel(scheme: Scheme, kernel: str, where: str = "") -> None:
    """Raise unless a kernel that was asked for goes with the scheme; "auto", "torch" always do.

    Raises:
        ValueError: naming the kernels of the scheme.
    """
    known = backend.FORMATS[type(scheme)]
    if kernel not in ("auto", "torch", *known):
        name = type(scheme).__name__.lower()
        raise ValueError(
            f"{where}kernel {kernel!r} does not go with scheme {name!r}, which has "
            f"{', '.join(known)} (and 'torch' to leave layers as they are)"
        )


def choose(part: Part) -> tuple[Option, str]:
    """The option by the rule of thumb, and the reason."""
    if isinstance(part.scheme, Int8):
        return _int8(part)
    zeros = 1.0 - part.kept
    reason = f"{zeros:.0%} of the weights are zero (not measured)"
    depthwise = is_depthwise(part.layer)
    if isinstance(part.scheme, Fp32) and depthwise:
        return Option("depthwise"), "every channel is a group of its own (not measured)"
    csr = isinstance(part.scheme, Fp32) and is_pointwise(part.layer)
    if csr and zeros >= _CSR_ZEROS:
        return Option("csr"), reason
    if zeros >= _WINDOWED_ZEROS and not depthwise:
        return Option("windowed"), reason
    if csr and part.was_sparse:
        return Option("csr"), f"its weight is a sparse tensor; {reason}"
    name = type(part.scheme).__name__.lower()
    return TORCH, f"{reason}: too few for a sparse {name} kernel, torch's dense one stays"


def _int8(part: Part) -> tuple[Option, str]:
    if is_depthwise(part.layer):
        return Option("depthwise"), "every channel is a group of its own (not measured)"
    isa = backend.isa()
    most = _WINDOWED_SHARE[isa]
    if part.kept > most:  # then its windowed form can not be small enough either
        reason = f"{part.kept:.0%} of the weights kept, too many for windowed on {isa}"
        return Option("dense"), f"{reason} (not measured)"
    share = _packed_share(part)
    reason = f"packs into {share:.1%} of dense's groups"
    if share <= most:
        return Option("windowed"), f"{reason} (not measured)"
    return Option("dense"), f"windowed {reason}, too many on {isa} (not measured)"


def _packed_share(part: Part) -> float:
    """Groups of 16 outputs x 4 inputs in the windowed form over those of the dense form."""
    outputs, taps, inputs = part.shape
    engine = part.engine(Option("windowed"))
    if engine._settings.geometry is not None:
        sizes = engine._settings.geometry.cut_for(backend.format_of(part.scheme, "dense"))
        taps, inputs = sizes.taps, sizes.tap_inputs
    dense = part.groups * -(-(outputs // part.groups) // 16) * taps * -(-inputs // 4)
    steps = engine._buffers["values"]
    return 0.0 if steps is None else steps.shape[0] / max(dense, 1)
