"""sparsekd's own layers as contenders: windowed with real masks, and dense int8."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from sparsekd import backend
from sparsekd.bench.peers import Engine, LinearProblem, Peer, module_engine, version_of
from sparsekd.nn import Linear
from sparsekd.prune import prune_
from sparsekd.spec import NM, Int8

__all__ = ["our_peers", "pattern_of"]

_GROUP = 32


def our_peers(sparsities: list[float]) -> list[Peer]:
    """One windowed layer for each sparsity, and the dense int8 layer.

    Raises:
        ValueError: a sparsity that no n:32 pattern has.
    """
    patterns = [pattern_of(sparsity) for sparsity in sparsities]
    sparse = [
        Peer(f"sparsekd {pattern}", "sparse int8", partial(_windowed, pattern), ours=True)
        for pattern in patterns
    ]
    return [*sparse, Peer("sparsekd dense int8", "dense int8", _dense, ours=True)]


def pattern_of(sparsity: float) -> NM:
    """The n:32 pattern of that sparsity.

    >>> str(pattern_of(0.875))
    '4:32'
    """
    kept = round((1.0 - sparsity) * _GROUP)
    if not 1 <= kept < _GROUP or abs(kept / _GROUP - (1.0 - sparsity)) > 1e-6:
        raise ValueError(
            f"sparsity {sparsity!r} is no n:{_GROUP} pattern; it must be a multiple of "
            f"1/{_GROUP} between 0 and 1, such as 0.5, 0.75 or 0.875"
        )
    return NM(kept, _GROUP)


def _windowed(pattern: NM, problem: LinearProblem) -> Engine:
    pruned = problem.linear()
    prune_(pruned, pattern)
    layer = Linear.from_float(pruned, scheme=Int8(), kernel="windowed").eval()
    return _engine(layer, problem, pruned.weight.detach())


def _dense(problem: LinearProblem) -> Engine:
    layer = Linear.from_float(problem.linear(), scheme=Int8(), kernel="dense").eval()
    return _engine(layer, problem, None)


def _engine(layer: Linear, problem: LinearProblem, weight: Tensor | None) -> Engine:
    config = {
        "threads": problem.threads,
        "isa": backend.isa(),
        "kernel": layer.kernel,
        "scheme": str(layer.scheme),
        "kept weights": layer.kept(),
        "packed bytes": layer.packed_bytes(),
    }
    return module_engine(
        layer, problem.inputs, version=version_of("sparsekd"), config=config, weight=weight
    )
