"""What arbitrary masks cost in padding, and what would save it."""

from __future__ import annotations

from collections.abc import Mapping

from sparsekd.convert._kinds import EngineLayer
from sparsekd.slots import Fit, fit
from sparsekd.spec import Int8

__all__ = ["padding_note"]

_WORTH = 0.9  # of the slots, that a mask must need after fitting to be worth a word


def padding_note(engines: Mapping[str, EngineLayer]) -> str:
    """A sentence on the int8 layers that ``prune.snap_`` would make smaller; "" without any.

    Args:
        engines: by name, layers that were made of torch layers: these have a mask to be fitted.
    """
    found: dict[str, tuple[int, int, Fit]] = {}
    for name, engine in engines.items():
        if engine.kernel != "windowed" or not isinstance(engine.scheme, Int8):
            continue
        slots, kept = engine._tensor("values").numel(), engine.kept()
        if not kept or engine.efficiency() > _WORTH:
            continue
        fitted = fit(engine.packed_weight() != 0, engine._groups)
        if fitted.slots < _WORTH * slots:
            found[name] = slots, kept, fitted
    if not found:
        return ""
    slots = sum(slots for slots, *_ in found.values())
    kept = sum(kept for _, kept, _ in found.values())
    dropped = sum(kept * fitted.dropped for _, kept, fitted in found.values()) / kept
    saved = 1.0 - sum(fitted.slots for *_, fitted in found.values()) / slots
    patterns = sorted({fitted.pattern.n for *_, fitted in found.values()})
    which = " and ".join(f"{n}:64" for n in patterns)
    where = f"{next(iter(found))!r} fills"
    if others := len(found) - 1:
        where = f"{next(iter(found))!r} and {others} other layer{'s' * (others > 1)} fill"
    return (
        f"padding: {where} {kept / slots:.0%} of the slots; sparsekd.prune.snap_ to {which} before "
        f"conversion would drop {dropped:.1%} of the kept weights and save {saved:.0%} of the slots"
    )
