"""A small model that uses every feature of a file, and tools to take a file apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sparsekd.convert import convert
from sparsekd.io import save
from sparsekd.quantize import calibrate, prepare_
from sparsekd.spec import NM, Int8

NUMPY = {
    "I8": "int8",
    "U8": "uint8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F32": "float32",
    "BF16": "uint16",  # numpy has no bf16: its bits
}


class Student(nn.Module):
    """Windowed static with ReLU, dense dynamic, a layer that stays torch, and a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(40, 33), nn.ReLU(), nn.Linear(33, 20))
        self.norm = nn.BatchNorm1d(20)
        self.head = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.body(x)))


def convert_student() -> nn.Module:
    torch.manual_seed(1)
    model = Student()
    first = model.body[0]
    first.register_buffer("weight_mask", NM(4, 16).mask(first.weight.detach().abs()))
    with torch.no_grad():
        first.weight.mul_(first.weight_mask)
    prepare_(model, Int8("static"), include="body.0")
    prepare_(model, Int8(), include="body.2", fold_bn=False)
    calibrate(model, [torch.randn(64, 40)])
    return convert(model)


@dataclass
class File:
    """A file taken apart; what is changed here is put together again by ``write``."""

    path: Path
    manifest: dict
    header: dict
    data: dict[str, bytes]

    @classmethod
    def read(cls, path: Path) -> File:
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        manifest = json.loads(header.pop("__metadata__")["sparsekd"])
        data = {
            name: content[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
            for name, entry in header.items()
        }
        return cls(path, manifest, header, data)

    def array(self, name: str) -> np.ndarray:
        entry = self.header[name]
        return np.frombuffer(self.data[name], NUMPY[entry["dtype"]]).reshape(entry["shape"]).copy()

    def put(self, name: str, array: np.ndarray) -> None:
        dtype = next(key for key, value in NUMPY.items() if value == array.dtype.name)
        self.header[name] = {"dtype": dtype, "shape": list(array.shape)}
        self.data[name] = array.tobytes()

    def change(self, name: str, edit: Callable[[np.ndarray], np.ndarray | None]) -> None:
        """Edit an array in place, or replace it by what ``edit`` returns."""
        array = self.array(name)
        result = edit(array)
        self.put(name, array if result is None else result)

    def rename(self, old: str, new: str) -> None:
        self.header[new], self.data[new] = self.header.pop(old), self.data.pop(old)

    def drop(self, name: str) -> None:
        del self.header[name], self.data[name]

    def write(self, *, hash_: bool = True, metadata: dict | None = None) -> None:
        # Widest first, as safetensors orders them, so that every tensor is aligned.
        names = sorted(self.data, key=lambda n: (-_width(self.header[n]["dtype"]), n))
        position, header = 0, {}
        for name in names:
            end = position + len(self.data[name])
            header[name] = {**self.header[name], "data_offsets": [position, end]}
            position = end
        data = b"".join(self.data[name] for name in names)
        if hash_:
            self.manifest["sha256"] = hashlib.sha256(data).hexdigest()
        found = {"sparsekd": json.dumps(self.manifest)} if metadata is None else metadata
        text = json.dumps({"__metadata__": found, **header}).encode()
        self.path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _width(dtype: str) -> int:
    return int("".join(filter(str.isdigit, dtype)) or 8)


def snapshot(model: nn.Module) -> list[object]:
    """Everything of a model that a load could change: which objects, and their bytes."""
    found: list[object] = []
    for name, module in model.named_modules(remove_duplicate=False):
        found.append((name, id(module), type(module), module.training))
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            empty = tensor is None or tensor.is_meta or is_lazy(tensor)
            content = None if empty else tensor.detach().numpy().tobytes()
            found.append((name, key, id(tensor), content))
    return found


@pytest.fixture(autouse=True)
def _seed_and_no_grad():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.fixture
def student() -> type[nn.Module]:
    return Student


@pytest.fixture(scope="session")
def _saved(tmp_path_factory) -> tuple[Path, nn.Module]:
    path, model = tmp_path_factory.mktemp("saved") / "student.safetensors", convert_student()
    save(model, path)
    return path, model


@pytest.fixture
def converted(_saved) -> nn.Module:
    return _saved[1]


@pytest.fixture
def path(_saved, tmp_path) -> Path:
    copy = tmp_path / "student.safetensors"
    copy.write_bytes(_saved[0].read_bytes())
    return copy


@pytest.fixture
def file(path) -> File:
    return File.read(path)


@pytest.fixture
def snapshot_of() -> Callable[[nn.Module], list[object]]:
    return snapshot
