"""Long comparisons are written down as they go, so that an interrupted one goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsekd import backend
from sparsekd.bench.record import Point

__all__ = ["Journal", "conditions"]


class Journal:
    """A file of one line a point, for one comparison; it is gone when the comparison is complete.

    The file's name holds a digest of what makes figures comparable: a run with other settings, on
    another processor or with other versions starts a file of its own.

    Args:
        folder: an existing folder.
        what: "linear", "conv" or "model".
        conditions: plain JSON types; points of equal conditions belong to one comparison.
    """

    def __init__(self, folder: str | Path, what: str, conditions: Mapping[str, Any]) -> None:
        text = json.dumps(conditions, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.path = Path(folder, f"{what}-{digest}.partial.jsonl")
        self.points: dict[str, Point] = {}
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        """Take over the points of an interrupted run; of a last line cut short nothing is left."""
        good = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                point = Point.from_dict(json.loads(line))
            except (ValueError, KeyError):
                break
            self.points[point.key] = point
            good.append(line)
        self.path.write_text("".join(f"{line}\n" for line in good), encoding="utf-8")

    def add(self, point: Point) -> None:
        """Write one more point down."""
        self.points[point.key] = point
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(point.to_dict()) + "\n")

    def close(self) -> None:
        """Forget the file: all of it stands elsewhere now."""
        self.path.unlink(missing_ok=True)


def conditions(settings: Mapping[str, Any], where: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be equal for two runs to be parts of one: all but the date and the load."""
    passing = {"date", "load", "threads"}
    source = backend.info()["source_hash"]
    lasting = {name: value for name, value in where.items() if name not in passing}
    return {"settings": dict(settings), "environment": lasting, "source": source}
