"""What every comparison of engines records, whatever was compared: one form, one JSON schema.

docs/benchmarks.md describes the file. ``bench/compare.py`` reads it without this package.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from sparsekd.benchmark import Samples

__all__ = ["QUIET_CORES", "SCHEMA", "BenchResult", "Entry", "Kind", "Point"]

#: Version of the JSON form; a reader refuses what it does not know.
SCHEMA = 1

#: Cores that others may use during a measurement.
QUIET_CORES = 0.1

#: What an engine competes as. "rate" is no engine but a measured limit of the machine.
Kind = Literal[
    "dense fp32", "dense bf16", "dense int8", "sparse fp32", "sparse bf16", "sparse int8", "rate"
]


@dataclass(frozen=True)
class Entry:
    """One engine on one problem.

    Attributes:
        error: relative error of the output against float64, root mean square; None of a rate.
        setup_s: seconds for packing and compiling, outside the timed calls.
        family: what stands in one table, such as "int8 n:32"; "" for the engines of others.
        sparsity: the share of weights that is left out, 0..1; None where nothing is.
        work: multiply-adds of one call with the weights that are kept; None where not counted.
        moved: bytes that a call has to read and write at least; None where not counted.
    """

    name: str
    kind: Kind
    ours: bool
    version: str
    config: Mapping[str, Any]
    error: float | None
    setup_s: float
    samples: Samples
    family: str = ""
    sparsity: float | None = None
    work: int | None = None
    moved: int | None = None

    @property
    def seconds(self) -> float:
        """The median."""
        return self.samples.median

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        plain = {name: getattr(self, name) for name in _ENTRY_FIELDS}
        return plain | {"config": dict(self.config)} | self.samples.to_dict()

    @classmethod
    def from_dict(cls, read: Mapping[str, Any]) -> Entry:
        """The inverse of :meth:`to_dict`."""
        if read["kind"] not in get_args(Kind):
            raise ValueError(f"unknown kind of engine {read['kind']!r}")
        fields = {name: read[name] for name in _ENTRY_FIELDS}
        return cls(**fields, config=read["config"], samples=Samples(tuple(read["samples_s"])))


_ENTRY_FIELDS = (
    "name",
    "kind",
    "ours",
    "family",
    "sparsity",
    "version",
    "error",
    "setup_s",
    "work",
    "moved",
)


@dataclass(frozen=True)
class Point:
    """All engines on one problem.

    Attributes:
        title: for people, such as "16 x 768 -> 3072".
        case: what was measured, in plain JSON types; no two points of a result have the same.
        absent: name of each engine without a time, and why it has none.
        others: cores that other processes used meanwhile, None where that is not known.
        repeated: blocks measured again, because the machine had not given whole cores.
        disturbed: blocks that count although it never did.
    """

    title: str
    case: Mapping[str, Any]
    entries: tuple[Entry, ...]
    absent: Mapping[str, str] = field(default_factory=dict)
    others: float | None = None
    repeated: int = 0
    disturbed: int = 0

    @property
    def busy(self) -> bool:
        """Whether others used so much of the cores that the figures are not worth quoting."""
        return self.disturbed > 0 or (self.others is not None and self.others > QUIET_CORES)

    @property
    def key(self) -> str:
        """The case as text."""
        return key_of(self.case)

    def best(self, kind: Kind) -> Entry | None:
        """The fastest of the others of that kind, None where there is none."""
        rivals = [entry for entry in self.entries if entry.kind == kind and not entry.ours]
        return min(rivals, key=lambda entry: entry.seconds, default=None)

    def ratio(self, entry: Entry, kind: Kind) -> float | None:
        """Time of the best of that kind over time of this entry; above 1 it is faster."""
        best = self.best(kind)
        return best.seconds / entry.seconds if best else None

    def rate(self, name: str) -> float | None:
        """A limit that was measured beside the engines, in multiply-adds a second."""
        for entry in self.entries:
            if entry.kind == "rate" and entry.name == name and entry.work:
                return entry.work / entry.seconds
        return None

    def find(self, family: str, sparsity: float | None) -> Entry | None:
        """Our entry of that family and sparsity."""
        for entry in self.entries:
            if entry.ours and (entry.family, entry.sparsity) == (family, sparsity):
                return entry
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, raw samples included."""
        return {
            "title": self.title,
            "case": dict(self.case),
            "others": self.others,
            "repeated": self.repeated,
            "disturbed": self.disturbed,
            "engines": [entry.to_dict() for entry in self.entries],
            "absent": dict(self.absent),
        }

    @classmethod
    def from_dict(cls, read: Mapping[str, Any]) -> Point:
        """The inverse of :meth:`to_dict`."""
        entries = tuple(map(Entry.from_dict, read["engines"]))
        steady = (read.get("repeated", 0), read.get("disturbed", 0))  # older files lack them
        return cls(read["title"], read["case"], entries, read["absent"], read["others"], *steady)


def key_of(case: Mapping[str, Any]) -> str:
    """A case as text, the same for the same case."""
    return json.dumps(dict(case), sort_keys=True)


@dataclass(frozen=True)
class BenchResult:
    """Every point of a comparison, with the settings and the environment.

    Attributes:
        what: "linear", "conv" or "model".
        files: what was written.
    """

    points: tuple[Point, ...]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    files: tuple[Path, ...] = ()

    what = ""

    def extra(self) -> dict[str, Any]:
        """What else stands in the file, by name."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Everything, raw samples included, as plain JSON types."""
        return {
            "schema": SCHEMA,
            "what": self.what,
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "points": [point.to_dict() for point in self.points],
            **self.extra(),
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1)

    def write(self, folder: str | Path) -> Path:
        """Write ``<what>.json`` into an existing folder."""
        target = Path(folder, f"{self.what}.json")
        target.write_text(self.to_json() + "\n", encoding="utf-8")
        return target


def points_of(read: Mapping[str, Any]) -> Iterable[Point]:
    """The points of a file that was read.

    Raises:
        ValueError: it has another schema.
    """
    if read.get("schema") != SCHEMA:
        raise ValueError(f"schema {read.get('schema')!r}, expected {SCHEMA}")
    return map(Point.from_dict, read["points"])
