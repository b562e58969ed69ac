"""How the parts recognise each other's marks on a module without importing each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from sparsekd.spec import Int8

__all__ = ["Selector", "is_own_hook", "quant_spec", "select", "weight_mask"]

Selector = str | type[nn.Module]


def quant_spec(module: nn.Module) -> Int8 | None:
    """The scheme of a fake-quantized module, else None."""
    if not getattr(type(module), "is_fake_quant", False):
        return None
    scheme = module.scheme
    if not isinstance(scheme, Int8):
        raise TypeError(f"a fake-quantized module must carry an Int8 scheme, got {scheme!r}")
    return scheme


def weight_mask(module: nn.Module) -> Tensor | None:
    """The bool mask that pruning recorded (same shape as the weight), else None."""
    return module._buffers.get("weight_mask")


def is_own_hook(hook: object) -> bool:
    """True for the hooks that sparsekd itself puts on a module; convert may drop those."""
    return bool(getattr(type(hook), "sparsekd_hook", False))


def select(
    model: nn.Module,
    include: Selector | Iterable[Selector] = (),
    exclude: Selector | Iterable[Selector] = (),
    kinds: tuple[type[nn.Module], ...] = (nn.Linear,),
) -> list[tuple[str, nn.Module]]:
    """The modules of ``kinds`` that a verb acts on, in the model's order, each once.

    The output projection of ``nn.MultiheadAttention`` is never among them: attention reads its
    weight without calling it, so neither masks nor fake quantization would hold.

    Args:
        include: name globs or types; empty means all.
        exclude: name globs or types, taken off.

    Raises:
        ValueError: an include or exclude that matches no module of those kinds.
    """
    named = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, kinds) and not isinstance(module, NonDynamicallyQuantizableLinear)
    ]
    chosen = [item for item in named if not include or _matches(item, _as_list(include))]
    dropped = _as_list(exclude)
    for selector in [*_as_list(include), *dropped]:
        if not any(_matches(item, [selector]) for item in named):
            names = ", ".join(name or "(the model itself)" for name, _ in named) or "none"
            raise ValueError(f"selector {selector!r} matches no layer; the layers are: {names}")
    return [item for item in chosen if not _matches(item, dropped)]


def _as_list(selectors: Selector | Iterable[Selector]) -> list[Selector]:
    return [selectors] if isinstance(selectors, (str, type)) else list(selectors)


def _matches(item: tuple[str, nn.Module], selectors: Sequence[Selector]) -> bool:
    name, module = item
    return any(
        fnmatchcase(name, s) if isinstance(s, str) else isinstance(module, s) for s in selectors
    )
