"""Tensors and manifest to and from the bytes of one safetensors file.

safetensors does the container; what it does not check is checked here: repeated names, names that
are no module names, metadata of others, sizes, the hash, bytes of a bool that are neither 0 nor 1.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sparsekd.io._manifest import FileFormatError, Manifest, strict_json
from sparsekd.io._strict import check_name

__all__ = ["DTYPES", "decode", "encode"]

_KEY = "sparsekd"
_MAX_DIMS = 8
_LIMIT = 2**48  # elements of a tensor; far beyond any file, well below overflow of 64 bits

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def encode(
    tensors: Mapping[str, Tensor], manifest: Callable[[str], Manifest]
) -> list[bytes | memoryview]:
    """The parts of a file, to be written one after the other.

    Args:
        tensors: contiguous CPU tensors by name, no two of them sharing memory.
        manifest: makes the manifest from the SHA-256 of the data section.
    """
    # The hash stands in front of what it is taken of, so a stand-in of its length goes first.
    stand_in = secrets.token_hex(32)
    content = safetensors.torch.save(dict(tensors), {_KEY: manifest(stand_in).model_dump_json()})
    start = 8 + int.from_bytes(content[:8], "little")
    data = memoryview(content)[start:]
    digest = hashlib.sha256(data).hexdigest()
    head = content[:start].replace(stand_in.encode(), digest.encode())
    return [head, data]


def decode(content: bytes, *, check_hash: bool) -> tuple[Manifest, dict[str, Tensor]]:
    """Manifest and tensors of a file; the tensors do not refer to ``content``.

    Raises:
        FileFormatError: the bytes are no such file.
    """
    header, start = _header(content)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(_KEY), str):
        raise FileFormatError("the file has no sparsekd manifest in its metadata")
    if len(metadata) != 1:
        others = sorted(key for key in metadata if key != _KEY)
        raise FileFormatError(f"unknown metadata {others[0]!r} beside the manifest")
    manifest = Manifest.parse(metadata[_KEY])
    if check_hash:
        found = hashlib.sha256(memoryview(content)[start:]).hexdigest()
        if found != manifest.sha256:
            raise FileFormatError(
                f"the data has SHA-256 {found[:12]}..., the manifest says "
                f"{manifest.sha256[:12]}...: the file is damaged or was altered"
            )
    for name, entry in header.items():
        _check_entry(name, entry)
    try:
        views = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    except Exception as error:  # its own error type and, for some inputs, built-in ones
        raise FileFormatError(f"not a valid safetensors file ({error})") from error
    return manifest, {name: _tensor(name, view) for name, view in views}


def _header(content: bytes) -> tuple[dict[str, Any], int]:
    """The JSON header and where the data section starts."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise FileFormatError(
            f"the file is cut off: {len(content)} bytes can not hold the header it announces"
        )
    try:
        header = strict_json(content[8 : 8 + length])
    except ValueError as error:
        raise FileFormatError(f"the header is not valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise FileFormatError("the header is not a JSON object")
    return header, 8 + length


def _check_entry(name: str, entry: object) -> None:
    """Raise unless this is a tensor that torch can hold under a name that a module can have."""
    try:
        check_name(name)
    except ValueError as error:
        raise FileFormatError(f"tensor {name[:80]!r}: {error}") from error
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FileFormatError(f"tensor {name!r}: expected dtype, shape and data_offsets alone")
    if entry["dtype"] not in DTYPES:
        raise FileFormatError(
            f"tensor {name!r} has unknown dtype {entry['dtype']!r}; known are {', '.join(DTYPES)}"
        )
    shape = entry["shape"]
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise FileFormatError(f"tensor {name!r}: shape must be a list of integers")
    room = 1
    for size in shape:
        room *= max(size, 1)
    if len(shape) > _MAX_DIMS or any(size < 0 for size in shape) or room > _LIMIT:
        raise FileFormatError(f"tensor {name!r} has an absurd shape {str(shape)[:80]}")


def _tensor(name: str, view: Mapping[str, Any]) -> Tensor:
    """A tensor over the bytes that safetensors copied for it."""
    dtype, shape, data = DTYPES[view["dtype"]], view["shape"], view["data"]
    if not data:
        return torch.empty(shape, dtype=dtype)
    if dtype is torch.bool:
        raw = torch.frombuffer(data, dtype=torch.uint8)
        if int(raw.max()) > 1:  # torch's behaviour on other bytes is undefined
            raise FileFormatError(f"tensor {name!r}: a bool is neither 0 nor 1")
        return raw.to(torch.bool).reshape(shape)
    return torch.frombuffer(data, dtype=dtype).reshape(shape)
