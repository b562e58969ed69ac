"""Do choices hold? Tunes two models, saves them, and measures every option again in a new process.

    python bench/tune_check.py

An int8 model, in which dense should win a layer and windowed another, and an fp32 model, in which
CSR, windowed and torch's own layer should win one each. For every layer it prints the time of what
was chosen over that of the best option, both measured in the new process, and says which layers
are beyond the bar. What wins is up to the machine: a kernel that wins nowhere is named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from sparsekd.choice import TuneReport
from sparsekd.convert import convert
from sparsekd.environment import busy_note, environment, where_text
from sparsekd.io import load, save
from sparsekd.prune import prune_
from sparsekd.spec import NM, Unstructured
from sparsekd.tune import tune

BAR = 1.05
HOPED = {"int8": {"dense", "windowed"}, "fp32": {"csr", "windowed", "torch"}}


def architecture(scheme: str) -> nn.Sequential:
    """The layers alone."""
    if scheme == "int8":
        layers: list[nn.Module] = [nn.Linear(384, 1536), nn.Linear(1536, 1536)]
    else:
        convolution = nn.Conv2d(64, 128, 3, padding=1)
        layers = [convolution, nn.Flatten(2), nn.Linear(256, 768), nn.Linear(768, 1536)]
    return nn.Sequential(*layers).eval()


def model(scheme: str) -> nn.Sequential:
    """The same weights in every process."""
    torch.manual_seed(0)
    made = architecture(scheme)
    if scheme == "int8":
        prune_(made, NM(16, 32), include="0")  # at one row as many bytes as dense, and more work
        prune_(made, NM(4, 32), include="1")
    else:
        prune_(made, NM(14, 16), include="0")
        prune_(made, NM(4, 16), include="2")
        prune_(made, Unstructured(0.98), include="3")
    return made


def examples(scheme: str) -> torch.Tensor:
    """One row; or 8 images, of which the linear layers get 1,024 rows."""
    generator = torch.Generator().manual_seed(1)
    if scheme == "int8":
        return torch.randn(1, 384, generator=generator)
    images = torch.randn(8, 64, 16, 16, generator=generator)
    return images.contiguous(memory_format=torch.channels_last)


def first(folder: Path, scheme: str) -> None:
    """Tune, convert, save."""
    report = tune(model(scheme), examples(scheme), scheme=scheme, break_even=True)
    print(report, "\n")
    save(convert(model(scheme), kernel=report, scheme=scheme), folder / scheme)


def second(folder: Path, scheme: str) -> None:
    """In a new process: load, and measure all options of the same model again."""
    loaded = load(folder / scheme, architecture(scheme))
    again = tune(model(scheme), examples(scheme), scheme=scheme)
    kept = loaded.sparsekd_report.tuning
    print(json.dumps(rows(kept, again)))


def rows(kept: TuneReport, again: TuneReport) -> list[dict[str, object]]:
    """For each layer with options: what was chosen, what is best now, and the ratio."""
    found = []
    for choice in kept.layers:
        figures = {figure.option: figure.median_s for figure in again[choice.name].figures}
        if choice.option in figures:
            best = min(figures, key=lambda option: figures[option])
            ratio = figures[choice.option] / figures[best]
            found.append(
                {
                    "layer": choice.name,
                    "chosen": str(choice.option),
                    "kernel": choice.kernel,
                    "ms": 1e3 * figures[choice.option],
                    "best": str(best),
                    "best ms": 1e3 * figures[best],
                    "ratio": ratio,
                }
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--again", nargs=2, metavar=("FOLDER", "SCHEME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.again:
        second(Path(options.again[0]), options.again[1])
        return 0
    print(where_text(environment()), "\n")
    beyond = 0
    with tempfile.TemporaryDirectory() as folder:
        for scheme in HOPED:
            first(Path(folder), scheme)
            command = [sys.executable, __file__, "--threads", str(options.threads)]
            command += ["--again", folder, scheme]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            table = json.loads(told.splitlines()[-1])
            print(f"{scheme}, in a new process:")
            for row in table:
                flag = "" if row["ratio"] <= BAR else f"  ! beyond {BAR}"
                beyond += bool(flag)
                print(
                    f"  layer {row['layer']}: {row['chosen']} {row['ms']:.4f} ms, best "
                    f"{row['best']} {row['best ms']:.4f} ms, ratio {row['ratio']:.3f}{flag}"
                )
            missing = HOPED[scheme] - {row["kernel"] for row in table}
            print(f"  wins nowhere: {', '.join(sorted(missing)) or 'none'}\n")
    if note := busy_note(environment()):
        print(note)
    return 1 if beyond else 0


if __name__ == "__main__":
    raise SystemExit(main())
