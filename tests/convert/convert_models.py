"""The small models that the tests of conversion share."""

from __future__ import annotations

from torch import nn

from sparsekd.spec import Pattern

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


def mlp(act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(40, 33), act(), nn.Linear(33, 7))


def mask_(layer: nn.Linear, pattern: Pattern) -> None:
    """A recorded mask, as pruning leaves it."""
    layer.register_buffer("weight_mask", pattern.mask(layer.weight.detach().abs()))
    layer.weight.mul_(layer.weight_mask)


class Net(nn.Module):
    """Two layers and an activation, wired by ``how(net, x)``."""

    def __init__(self, how, act: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(8, 8), nn.Linear(8, 8), act or nn.ReLU()
        self.how = how

    def forward(self, x):
        return self.how(self, x)
