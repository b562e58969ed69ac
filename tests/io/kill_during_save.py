"""Kills a save at every step and prints what was left each time; run by test_atomic.py.

A step is a call of an os function that the write makes: the child is killed before it, after it,
and for writes in the middle. One process forks a child for each moment, which saves a second
model over the first one's file.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsekd.convert import convert
from sparsekd.io import _atomic, load, save

STEPS = ("open", "write", "fchmod", "fsync", "close", "replace")


def watch(moment: int) -> None:
    """Make this process die at the given moment of the steps to come."""
    moments = itertools.count()

    def pass_moment() -> None:
        if next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            pass_moment()
            done = 0
            if name == "write":
                descriptor, data = args
                done = function(descriptor, data[: len(data) // 2])
                pass_moment()
                args = (descriptor, data[done:])
            result = function(*args, **kwargs)
            pass_moment()
            return result + done if name == "write" else result

        return call

    for name in STEPS:
        setattr(os, name, watched(getattr(os, name), name))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    _atomic._CHUNK = 300  # several writes
    target = folder / "model.safetensors"
    models, contents = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        models.append(convert(nn.Sequential(nn.Linear(20, 20), nn.ReLU()), scheme="int8"))
        save(models[-1], target)
        contents.append(target.read_bytes())
    old, new = contents
    for moment in itertools.count():
        target.write_bytes(old)
        child = os.fork()
        if child == 0:
            watch(moment)
            save(models[1], target)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found = target.read_bytes()
        load(target, nn.Sequential(nn.Linear(20, 20), nn.ReLU()))
        which = "old" if found == old else "new" if found == new else "damaged"
        if os.WIFEXITED(status):
            print("finished", os.WEXITSTATUS(status), which)
            break
        print("killed", os.WTERMSIG(status), which)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
