"""A model that is built in an instant, for tests of benchmarks of models."""

#: A folder of definitions as a user could write one.
TINY = """
import torch
from torch import nn
from sparsekd.bench.definitions import ModelDefinition

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2), nn.BatchNorm2d(64), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    ).eval().requires_grad_(False)

def inputs(batch, seed=0):
    torch.manual_seed(seed)
    return [(torch.randn(batch, 3, 9, 9),) for _ in range(2)]

MODELS = {
    "tiny": ModelDefinition(
        build=build,
        cases={"1": lambda: inputs(1), "3": lambda: inputs(3)},
        samples=lambda: inputs(5, 7),
        note="a note, random weights",
        not_pruned=("0",),
        images=True,
    ),
}
"""
