"""What a batch is: one rule for everything that runs a model over data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["split_batch"]


def split_batch(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Tensor | None]:
    """Take a batch apart.

    A batch is a tensor of inputs; a pair (inputs, labels), or the inputs alone in a list of one, as
    DataLoaders give them; or a mapping, whose entry "labels" holds the labels and whose other
    entries are keyword arguments of the model.

    Returns:
        (positional arguments, keyword arguments, labels or None).

    Raises:
        TypeError: a batch of another type.
        ValueError: a tuple or list of no entry or of more than two.

    >>> split_batch((images, labels)) == ((images,), {}, labels)
    True
    """
    if isinstance(batch, Tensor):
        return (batch,), {}, None
    if isinstance(batch, Mapping):
        keywords = dict(batch)
        labels = keywords.pop("labels", None)
        return (), keywords, labels
    expected = "a batch is a tensor, a pair (inputs, labels) or a mapping with 'labels'; got"
    if not isinstance(batch, (tuple, list)):
        raise TypeError(f"{expected} {type(batch).__name__}")
    if len(batch) not in (1, 2):
        raise ValueError(f"{expected} {type(batch).__name__} of {len(batch)}")
    return (batch[0],), {}, batch[1] if len(batch) == 2 else None
