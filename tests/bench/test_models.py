"""The models of bench/models: the right architecture, and they convert and verify."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from sparsekd.bench.definitions import ModelDefinition, load_definitions

FOLDER = Path(__file__).resolve().parents[2] / "bench" / "models"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the source tree")

#: Parameters and convolutions of torchvision's models with 1,000 classes.
SIZES = {
    "resnet18": (11_689_512, 20),
    "resnet50": (25_557_032, 53),
    "mobilenetv2": (3_504_872, 52),
}
#: Some of torchvision's names and shapes.
NAMES = {
    "resnet18": {
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer4.1.bn2.running_var": (512,),
        "fc.weight": (1000, 512),
    },
    "resnet50": {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.downsample.1.bias": (256,),
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
    },
    "mobilenetv2": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.18.1.weight": (1280,),
        "classifier.1.bias": (1000,),
    },
}


@pytest.fixture(scope="module")
def models() -> Mapping[str, ModelDefinition]:
    return load_definitions(FOLDER)


@pytest.fixture(scope="module")
def images(models: Mapping[str, ModelDefinition]) -> ModuleType:
    """bench/models/images.py"""
    name = next(iter(models.values())).build.func.__module__  # type: ignore[attr-defined]
    return sys.modules[name]


def architecture(definition: ModelDefinition) -> nn.Module:
    """The model without weights, in no time."""
    with torch.device("meta"):
        model = definition.build.args[0]()  # type: ignore[attr-defined]
    assert isinstance(model, nn.Module)
    return model


@pytest.mark.parametrize("name", SIZES)
def test_architecture_is_torchvision_s(models: Mapping[str, ModelDefinition], name: str) -> None:
    model = architecture(models[name])
    parameters, convolutions = SIZES[name]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == convolutions
    state = model.state_dict()
    for key, shape in NAMES[name].items():
        assert state[key].shape == shape
    for batch, size in ((2, 224), (1, 65)):
        assert model(torch.empty(batch, 3, size, size, device="meta")).shape == (batch, 1000)
    for stem in models[name].not_pruned:
        assert isinstance(model.get_submodule(stem), nn.Conv2d)


def test_random_classifier_is_the_same_again_and_has_seen_data(
    models: Mapping[str, ModelDefinition], images: ModuleType
) -> None:
    build = models["resnet18"].build.args[0]  # type: ignore[attr-defined]
    state = torch.random.get_rng_state()
    one, two = images.random_classifier(build, 32), images.random_classifier(build, 32)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not one.training
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert one.bn1.running_mean.abs().max() > 0
    assert one.bn1.weight.std() > 0
    logits = one(images.random_images(4, 32, 5))
    assert logits.isfinite().all()
    assert logits.std() > 0


def test_random_images_are_about_normal(images: ModuleType) -> None:
    x = images.random_images(8, 64, 0)
    assert x.shape == (8, 3, 64, 64)
    assert abs(float(x.mean())) < 0.1
    assert abs(float(x.std()) - 1) < 0.1
    assert torch.equal(x, images.random_images(8, 64, 0))
    assert not torch.equal(x, images.random_images(8, 64, 1))


def test_cases_give_several_inputs(models: Mapping[str, ModelDefinition]) -> None:
    definition = models["resnet18"]
    assert list(definition.cases) == ["1x3x224x224", "8x3x224x224"]
    inputs = definition.cases["1x3x224x224"]()
    assert [x.shape for (x,) in inputs] == [(1, 3, 224, 224)] * 4
    assert not torch.equal(inputs[0][0], inputs[1][0])
    assert "random weights" in definition.note


def test_a_folder_without_definitions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="bench/models"):
        load_definitions(tmp_path)
    (tmp_path / "__init__.py").write_text("")
    with pytest.raises(ValueError, match="no MODELS"):
        load_definitions(tmp_path)


def test_definitions_are_loaded_once() -> None:
    assert load_definitions(FOLDER) is load_definitions(str(FOLDER))
