"""Studies as pictures, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from sparsekd.bench.record import BenchResult, Entry, Point
from sparsekd.bench.studies import Study, geometric_mean
from sparsekd.bench.study_result import StudyResult, is_limits
from sparsekd.bench.tables import short_name
from sparsekd.environment import where_text
from sparsekd.report import (
    Bar,
    BarPanel,
    Panel,
    RooflinePoint,
    roofline_picture,
    speedup_picture,
    time_bars_picture,
)

__all__ = ["draw", "draw_times"]

#: Of a point: the title of its panel, and the name of its line there.
Place = Callable[[Point], tuple[str, str]]


def draw(result: StudyResult, folder: Path, place: Place) -> tuple[Path, ...]:
    """Draw every study of sparse weights into a folder: speedups, and the roofline.

    Returns:
        The pictures; none where matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        return ()
    return tuple(_drawn(result, folder, place))


def draw_times(result: BenchResult, folder: Path) -> tuple[Path, ...]:
    """Draw the times of all engines at every point into a folder, a panel for each point.

    Returns:
        The picture; none where matplotlib is not installed.
    """
    if find_spec("matplotlib") is None or not result.points:
        return ()
    panels = [
        BarPanel(point.title, [_bar(entry) for entry in point.entries]) for point in result.points
    ]
    return (
        time_bars_picture(
            panels,
            folder / f"{result.what}.png",
            title="median of one call, p10 to p90",
            subtitle=where_text(result.environment),
        ),
    )


def _bar(entry: Entry) -> Bar:
    group = f"sparsekd {entry.kind}" if entry.ours else f"others, {entry.kind}"
    samples = entry.samples
    return Bar(entry.name, group, samples.median, samples.p10, samples.p90)


def _drawn(result: StudyResult, folder: Path, place: Place) -> Iterator[Path]:
    where = where_text(result.environment)
    for name, points in result.slices():
        for study in result.studies:
            if not any(column.sparsity for column in study.columns(points)):
                continue
            stem = _file_name(f"{result.what} {study.name} {name}")
            panels = _panels(study, points, place)
            if panels:
                target = folder / f"{stem}.png"
                subtitle = f"{name}; times the speed of {study.title.partition(' against ')[2]}"
                yield speedup_picture(
                    panels, target, title=study.title, subtitle=f"{subtitle}; {where}"
                )
            limits = _limits(result, points)
            dots = _dots(study, points, place)
            if study.rate and limits and dots:
                ceilings, slopes = _roof(limits, study)
                target = folder / f"{stem}-roofline.png"
                title = f"{study.families[-1]} below the measured limits"
                yield roofline_picture(
                    dots, ceilings, slopes, target, title=title, subtitle=f"{name}; {where}"
                )


def _panels(study: Study, points: Sequence[Point], place: Place) -> list[Panel]:
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    others: dict[str, dict[str, list[float]]] = {}
    for point in study.rows(points):
        title, line = place(point)
        for column in study.columns([point]):
            ratio = study.ratio(point, column)
            if ratio is not None:
                name = line if _one_family(study, points) else f"{column.family}, {line}"
                there = panels.setdefault(title, {}).setdefault(name, [])
                there.append((column.sparsity or 0.0, ratio))
        for entry, ratio in _other_ratios(study, point):
            others.setdefault(title, {}).setdefault(short_name(entry.name), []).append(ratio)
    return [
        Panel(
            title,
            lines,
            {name: geometric_mean(found) for name, found in others.get(title, {}).items()},
        )
        for title, lines in panels.items()
    ]


def _one_family(study: Study, points: Iterable[Point]) -> bool:
    """Whether all sparse columns are of one family: dense weights are then its sparsity 0."""
    return len({c.family for c in study.columns(points) if c.sparsity is not None}) == 1


def _other_ratios(study: Study, point: Point) -> Iterator[tuple[Entry, float]]:
    """The engines of the yardstick's kind, in the unit of the fastest of them."""
    best = point.best(study.kind) if study.kind else None
    for entry in point.entries:
        if best is not None and entry.kind == study.kind and not entry.ours:
            yield entry, best.seconds / entry.seconds


def _dots(study: Study, points: Sequence[Point], place: Place) -> list[RooflinePoint]:
    dots = []
    for column in study.columns(points):
        for point in study.rows(points):
            entry = point.find(column.family, column.sparsity)
            if entry and entry.work and entry.moved:
                group = column.label(alone=_one_family(study, points)).replace("\n", " ")
                intensity, rate = entry.work / entry.moved, entry.work / entry.seconds
                dots.append(RooflinePoint(group, place(point)[1], intensity, rate))
    return dots


def _limits(result: StudyResult, points: Sequence[Point]) -> Point | None:
    """The limits that were measured with as many threads."""
    for point in filter(is_limits, result.points):
        if point.case["threads"] == points[0].case["threads"]:
            return point
    return None


def _roof(limits: Point, study: Study) -> tuple[dict[str, float], dict[str, float]]:
    wanted = {"vpdpbusd": ("vpdpbusd", "vpermb+dot"), "fma": ("fma", "vpermps+fma")}[study.rate]
    ceilings = {name: rate for name in wanted if (rate := limits.rate(name))}
    slopes = {
        entry.name: entry.moved / entry.seconds
        for entry in limits.entries
        if entry.moved and entry.name.startswith("read ")
    }
    return ceilings, slopes


def _file_name(text: str) -> str:
    """Words of letters and digits, joined by dashes."""
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
