"""The small models that the tests of conversion share."""

from __future__ import annotations

import torch
from torch import nn

from sparsekd.spec import NM, Pattern

ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}


def mlp(act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(40, 33), act(), nn.Linear(33, 7))


class SmallCNN(nn.Module):
    """conv-bn-relu6, depthwise-bn-hardswish, 1x1-bn-silu, pool, linear; like MobileNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()
        )
        self.depth = nn.Conv2d(32, 32, 3, stride=2, padding=1, groups=32, bias=False)
        self.norm, self.act = nn.BatchNorm2d(32), nn.Hardswish()
        self.point = nn.Sequential(nn.Conv2d(32, 64, 1), nn.BatchNorm2d(64), nn.SiLU())
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(64, 10)

    def forward(self, x):
        x = self.point(self.act(self.norm(self.depth(self.stem(x)))))
        return self.head(self.pool(x).flatten(1))


def small_cnn() -> SmallCNN:
    """In eval mode, with statistics that are not the initial ones and a pruned 1x1 convolution."""
    model = SmallCNN().train()
    model(torch.randn(8, 3, 10, 10) * 2 + 1)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
    mask_(model.point[0], NM(4, 32))
    return model.eval()


def mask_(layer: nn.Linear | nn.Conv1d | nn.Conv2d, pattern: Pattern) -> None:
    """A recorded mask, as pruning leaves it."""
    scores = layer.weight.detach().abs().movedim(1, -1)  # groups run along the inputs of a tap
    layer.register_buffer("weight_mask", pattern.mask(scores).movedim(-1, 1).contiguous())
    layer.weight.mul_(layer.weight_mask)


class Net(nn.Module):
    """Two layers and an activation, wired by ``how(net, x)``."""

    def __init__(self, how, act: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(8, 8), nn.Linear(8, 8), act or nn.ReLU()
        self.how = how

    def forward(self, x):
        return self.how(self, x)
