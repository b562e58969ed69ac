"""A float model made ours: pruned in one shot, quantized, converted, and held against torch."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsekd import backend
from sparsekd.bench.definitions import Arguments, ModelDefinition
from sparsekd.bench.networks import NetworkProblem, module_contender
from sparsekd.bench.ours import pattern_of
from sparsekd.bench.runner import Contender
from sparsekd.convert import ConversionReport, convert
from sparsekd.nn import EngineModule
from sparsekd.prune import prune_
from sparsekd.quantize import prepare_
from sparsekd.spec import Int8
from sparsekd.verify import VerifyReport, verify

__all__ = ["MODELS", "Agreement", "Variant", "agreement", "make_variant", "outputs"]

#: The family of our models.
MODELS = "int8 model"


@dataclass(frozen=True)
class Agreement:
    """Cosines between two models' outputs, one for each sample.

    Attributes:
        mean, low, worst: the mean, the 1st percentile and the minimum.
    """

    mean: float
    low: float
    worst: float
    samples: int

    def __str__(self) -> str:
        return f"mean {self.mean:.4f}, 1st percentile {self.low:.4f}, worst {self.worst:.4f}"


def outputs(model: nn.Module, samples: Iterable[Arguments]) -> Tensor:
    """What a model gives for all samples, fp32 [samples, features]."""
    with torch.inference_mode():
        return torch.cat([model(*arguments) for arguments in samples])


def agreement(one: Tensor, other: Tensor) -> Agreement:
    """Compare outputs row by row.

    >>> agreement(torch.eye(2), torch.eye(2)).mean
    1.0
    """
    cosines = torch.cosine_similarity(one.double(), other.double(), dim=1)
    low = float(cosines.quantile(0.01))
    return Agreement(float(cosines.mean()), low, float(cosines.min()), len(cosines))


@dataclass(frozen=True)
class Variant:
    """The model at one sparsity.

    Attributes:
        pruned: the float model with masked weights; the float model itself at sparsity 0.
        engine: what is timed.
        coverage: what became of each module.
        verified: the engine against the fake-quantized torch model, layer by layer and as a whole.
        to_float: outputs beside those of the float model that was started from.
        pruned_to_float: the same of ``pruned``: what pruning alone costs.
        to_pruned: outputs of the engine beside those of ``pruned``: what int8 alone costs.
    """

    name: str
    sparsity: float
    pruned: nn.Module
    engine: nn.Module
    coverage: ConversionReport
    verified: VerifyReport
    to_float: Agreement
    pruned_to_float: Agreement
    to_pruned: Agreement

    def contenders(self, *, images: bool) -> list[Contender[NetworkProblem]]:
        """The engine model in the comparison; for images in both memory formats."""
        layers = [m for m in self.engine.modules() if isinstance(m, EngineModule)]
        config = {
            "isa": backend.isa(),
            "engine layers": len(layers),
            "kept weights": sum(layer.kept() for layer in layers),
            "packed bytes": sum(layer.packed_bytes() for layer in layers),
        }

        def contender(name: str, nhwc: bool) -> Contender[NetworkProblem]:
            return module_contender(
                name,
                "sparse int8" if self.sparsity else "dense int8",
                self.engine,
                package="sparsekd",
                config=config | ({"inputs": "channels_last"} if nhwc else {}),
                nhwc=nhwc,
                ours=True,
                family=MODELS if nhwc or not images else f"{MODELS}, NCHW inputs",
                sparsity=self.sparsity,
                reference=self.pruned,
            )

        if not images:
            return [contender(self.name, False)]
        return [contender(self.name, True), contender(f"{self.name}, NCHW inputs", False)]

    def coverage_counts(self) -> Mapping[str, int]:
        """How many modules run where, by kind and kernel, such as ``"Conv2d windowed"``."""
        counts: dict[str, int] = {}
        for row in self.coverage.rows:
            key = f"{row.kind.removeprefix('FakeQuant')} {row.kernel}"
            counts[key] = counts.get(key, 0) + 1
        return counts

    def to_dict(self) -> dict[str, Any]:
        """Everything but the models, as plain JSON types."""
        return {
            "name": self.name,
            "sparsity": self.sparsity,
            "cosine to float": asdict(self.to_float),
            "cosine of the pruned float model to float": asdict(self.pruned_to_float),
            "cosine to the pruned float model": asdict(self.to_pruned),
            "coverage": self.coverage.to_dict(),
            "verified": self.verified.to_dict(),
        }


def make_variant(definition: ModelDefinition, model: nn.Module, sparsity: float) -> Variant:
    """Prune ``model`` to ``sparsity`` (0: not at all), quantize, convert and compare it.

    Args:
        model: the definition's float model; it is left as it is.

    Raises:
        ValueError: a sparsity that no n:32 pattern has.
    """
    pruned, name = model, "sparsekd dense int8"
    if sparsity:
        pattern = pattern_of(sparsity)
        name = f"sparsekd {pattern} int8"
        pruned = copy.deepcopy(model)
        prune_(pruned, pattern, exclude=definition.not_pruned)
    fake = copy.deepcopy(pruned)
    prepare_(fake, Int8())
    engine = convert(fake)
    coverage = engine.sparsekd_report
    assert isinstance(coverage, ConversionReport)
    samples = definition.samples()
    wanted, kept, got = (outputs(m, samples) for m in (model, pruned, engine))
    return Variant(
        name,
        sparsity,
        pruned,
        engine,
        coverage,
        verify(engine, fake, samples[0]),
        agreement(got, wanted),
        agreement(kept, wanted),
        agreement(got, kept),
    )
