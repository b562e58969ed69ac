"""Words of the command line as numbers: lists, shapes, and the errors that name what came."""

from __future__ import annotations

from collections.abc import Iterable

from sparsekd import backend

__all__ = ["PEERS", "check_isa", "check_peers", "counts", "items", "shares"]

#: Packages whose engines can be measured beside ours.
PEERS = ("torch", "onnxruntime", "openvino")


def items(value: str | int | float | Iterable[object]) -> list[str]:
    """The words of "a, b, c", or of a list.

    >>> items("1, 2")
    ['1', '2']
    """
    if isinstance(value, (int, float)):
        return [str(value)]
    parts = value.split(",") if isinstance(value, str) else map(str, value)
    return [text for part in parts if (text := part.strip())]


def counts(value: str | int | Iterable[object], what: str) -> list[int]:
    """Whole numbers of at least 1.

    Raises:
        ValueError: one is none, or there are none.
    """
    found = items(value)
    if not found:
        raise ValueError(f"{what}: at least one number is needed, such as 1,16")
    for text in found:
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"{what} must be a whole number of at least 1, got {text!r}")
    return [int(text) for text in found]


def shares(value: str | float | Iterable[object]) -> list[float]:
    """Sparsities; whether a format has them is for the format to say.

    Raises:
        ValueError: one is no number.
    """
    try:
        return [float(text) for text in items(value)]
    except ValueError:
        raise ValueError(f"sparsity must be numbers such as 0.5,0.75, got {value!r}") from None


def check_peers(value: str | Iterable[object], isa: str = "") -> list[str]:
    """The packages that are asked for; with a forced instruction set torch alone, which obeys.

    Raises:
        ValueError: an unknown package.
    """
    names = [name for name in items(value) if name != "none"]
    for name in names:
        if name not in PEERS:
            raise ValueError(f"unknown peer {name!r}; choose among {', '.join(PEERS)}, none")
    return [name for name in names if not isa or name == "torch"]


def check_isa(name: str) -> str:
    """The name itself if it is an instruction set of this CPU, or "" for the automatic choice.

    Raises:
        ValueError: it is not; the message lists the choices.
    """
    known = backend.available_isas()
    if name and name not in known:
        raise ValueError(f"instruction set {name!r} is not here; choose among {', '.join(known)}")
    return name
