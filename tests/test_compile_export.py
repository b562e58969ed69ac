"""Engine modules through torch.compile, torch.export and opcheck: the eager bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparsekd import ops
from sparsekd.nn import Conv1d, Conv2d, Linear
from sparsekd.nn._engine import EngineModule
from sparsekd.spec import Bf16, Fp32, Int8


class Net(nn.Module):
    """One layer of each kind; between them only operations that keep every bit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv2d.from_float(
            nn.Conv2d(8, 32, 3, padding=1), scheme=Int8(), kernel="windowed", activation="relu"
        )
        self.depthwise = Conv2d.from_float(
            nn.Conv2d(32, 32, 3, groups=32), scheme=Int8(), kernel="depthwise"
        )
        self.point = Conv2d.from_float(nn.Conv2d(32, 16, 1), scheme=Fp32(), kernel="csr")
        self.rounded = Conv2d.from_float(nn.Conv2d(16, 16, 3), scheme=Bf16(), kernel="windowed")
        self.line = Conv1d.from_float(nn.Conv1d(16, 16, 3), scheme=Int8(), kernel="dense")
        self.wide = Linear.from_float(
            nn.Linear(16, 10), scheme=Fp32(32), kernel="windowed", activation="gelu"
        )
        self.head = Linear.from_float(nn.Linear(10, 10), scheme=Int8(), kernel="dense")

    def forward(self, x: Tensor) -> Tensor:
        x = self.rounded(self.point(self.depthwise(self.stem(x))))
        return self.head(self.wide(self.line(x.flatten(2)).amax(2)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def batch(size: int, channels_last: bool = False) -> Tensor:
    x = torch.randn(size, 8, 12, 12)
    return x.to(memory_format=torch.channels_last) if channels_last else x


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch's own compiler
def test_compile_fullgraph_gives_the_eager_bits(net: nn.Module, channels_last: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for size in (4, 4, 7, 2):
            x = batch(size, channels_last)
            assert torch.equal(compiled(x), net(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_export_runs_in_a_fresh_process(net: nn.Module, tmp_path: Path) -> None:
    with torch.no_grad():
        dynamic = ({0: torch.export.Dim("batch", min=1, max=64)},)
        program = torch.export.export(net, (batch(4),), dynamic_shapes=dynamic)
        torch.export.save(program, tmp_path / "net.pt2")
        x = batch(7)
        torch.save({"x": x, "y": net(x)}, tmp_path / "io.pt")
    code = (
        "import sys, torch, sparsekd.ops\n"
        "folder = sys.argv[1]\n"
        "data = torch.load(folder + '/io.pt')\n"
        "net = torch.export.load(folder + '/net.pt2').module()\n"
        "with torch.no_grad():\n"
        "    assert torch.equal(net(data['x']), data['y'])\n"
        "print('equal')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.parametrize("name", ["stem", "depthwise", "point", "rounded", "wide", "head"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_opcheck(net: nn.Module, name: str) -> None:
    layer = net.get_submodule(name)
    assert isinstance(layer, EngineModule)
    op, arguments, x = _call_of(layer)
    results = torch.library.opcheck(op, (x, *layer._buffers.values(), *arguments))
    assert set(results.values()) == {"SUCCESS"}


def _call_of(layer: EngineModule) -> tuple[object, tuple[object, ...], Tensor]:
    settings = layer._settings
    if isinstance(layer, Linear):
        x = torch.randn(3, settings.inputs)
        return ops.linear_op(layer._format), ops.linear_arguments(settings), x
    assert settings.geometry is not None
    x = torch.randn(2, settings.geometry.channels[0], 6, 6)
    return ops.conv2d_op(layer._format), ops.conv2d_arguments(settings), x
