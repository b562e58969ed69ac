"""Many Python threads, forked children and DataLoader workers: the same bits, and no hang."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode

from sparsekd import backend
from sparsekd import nn as engine
from sparsekd.spec import Int8

LIMIT_S = 180


def layers() -> list[engine.Linear]:
    """Small ones, and one above the limit up to which a call stays on one thread."""
    made = []
    for inputs, outputs, kernel in [
        (70, 37, "windowed"),
        (64, 64, "dense"),
        (700, 530, "windowed"),
        (700, 530, "dense"),
    ]:
        layer = nn.Linear(inputs, outputs)
        made.append(engine.Linear.from_float(layer, scheme=Int8(), kernel=kernel))
    return made


def hammer(work: list[Callable[[], None]]) -> None:
    """Runs each of ``work`` on a thread of its own; raises what one of them raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(work))

    def guarded(task: Callable[[], None]) -> None:
        try:
            start.wait(timeout=LIMIT_S)
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(task,), daemon=True) for task in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=LIMIT_S)
        assert not thread.is_alive(), "an engine call hangs"
    if errors:
        raise errors[0]


@pytest.mark.parametrize("threads", [1, 2])
def test_python_threads_share_modules(threads: int) -> None:
    """Eight threads, thousands of calls each, on the same four modules."""
    torch.set_num_threads(threads)
    modules = layers()
    inputs = [[torch.randn(rows, m.in_features) for rows in (1, 3, 9)] for m in modules]
    wanted = [[m(x) for x in xs] for m, xs in zip(modules, inputs, strict=True)]

    def calls(count: int, which: slice) -> Callable[[], None]:
        def run() -> None:
            for turn in range(count):
                for module, xs, ys in list(zip(modules, inputs, wanted, strict=True))[which]:
                    pick = turn % len(xs)
                    assert torch.equal(module(xs[pick]), ys[pick])

        return run

    hammer([calls(1500, slice(0, 2))] * 6 + [calls(60, slice(0, 4))] * 2)


def test_handles_are_rebuilt_and_sets_switched_while_others_call() -> None:
    """A rebuilt handle, the op's cache, another instruction set: the same bits all the time."""
    module, x = layers()[0], torch.randn(3, 70)
    wanted = module(x)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            assert torch.equal(module(x), wanted)

    def read_through_the_op() -> None:
        while not done.is_set():
            with BaseTorchFunctionMode():
                assert torch.equal(module(x), wanted)

    def disturb() -> None:
        try:
            sets = backend.available_isas()
            for turn in range(400):
                module.bias.copy_(module.bias.clone())
                backend.set_isa(sets[turn % len(sets)])
        finally:
            done.set()

    hammer([read, read, read_through_the_op, read_through_the_op, disturb])


def test_first_use_from_many_threads() -> None:
    """The handle is made, and the instruction set chosen, by whoever comes first."""
    for _ in range(20):
        module, x = layers()[0], torch.randn(3, 70)
        fresh = engine.Linear(70, 37)
        fresh.load_state_dict(module.state_dict())
        fresh._cached = None
        backend.set_isa(None)
        results: list[Tensor] = []
        hammer([lambda f=fresh, x=x, r=results: r.append(f(x))] * 8)
        wanted = module(x)
        assert len(results) == 8
        assert all(torch.equal(y, wanted) for y in results)


PRELUDE = """
import os, sys, threading, time
import torch
from sparsekd import nn
from sparsekd.spec import Int8

torch.manual_seed(0)
torch.set_num_threads(2)
layer = nn.Linear.from_float(torch.nn.Linear(700, 530), scheme=Int8(), kernel="windowed")
x = torch.randn(40, 700)
wanted = layer(x)  # the parent's OpenMP team is up before anything forks
"""


def run_script(script: str) -> str:
    """In a process of its own, so that a hang is a failure and a fork copies no test runner."""
    result = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_forked_children_compute_the_same_bits() -> None:
    """libgomp's team does not survive a fork; also while other threads are inside the engine."""
    script = """
    def forked():
        child = os.fork()
        if child == 0:
            same = all(torch.equal(layer(x), wanted) for _ in range(5))
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(0 if torch.equal(layer(x), wanted) else 1)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) if same else 1)
        for _ in range(6000):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(child, 9)
        return "hangs"

    print([forked() for _ in range(3)], torch.equal(layer(x), wanted))
    stop = False

    def busy():
        while not stop:
            layer(x)

    others = [threading.Thread(target=busy) for _ in range(3)]
    for other in others:
        other.start()
    print([forked() for _ in range(10)])
    stop = True
    for other in others:
        other.join()
    print(torch.equal(layer(x), wanted))
    """
    assert run_script(script).splitlines() == ["[0, 0, 0] True", str([0] * 10), "True"]


def test_dataloader_workers() -> None:
    """Workers that use an engine module in the dataset and in the collate function."""
    script = """
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 40
        def __getitem__(self, index):
            torch.set_num_threads(2)  # a worker that undoes torch's one thread
            return layer(x[index])

    def collate(rows):
        return torch.stack(rows), layer(x)

    loader = torch.utils.data.DataLoader(
        Rows(), batch_size=10, num_workers=2, collate_fn=collate, timeout=120
    )
    for _ in range(2):
        batches = list(loader)
        assert torch.equal(torch.cat([rows for rows, _ in batches]), wanted)
        assert all(torch.equal(whole, wanted) for _, whole in batches)
        assert torch.equal(layer(x), wanted)
    print("done")
    """
    assert run_script(script) == "done\n"
