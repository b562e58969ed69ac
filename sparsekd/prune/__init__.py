"""Masks that say which weights stay: patterns, scores, schedules, one-shot and gradual pruning.

>>> report = prune_(model, NM(8, 32), exclude=["head"])
>>> print(report)
"""

from sparsekd.prune._masks import apply_masks_ as apply_masks_
from sparsekd.prune._one_shot import PruneReport as PruneReport
from sparsekd.prune._one_shot import prune_ as prune_
from sparsekd.prune._pruner import Pruner as Pruner
from sparsekd.prune._schedules import Constant as Constant
from sparsekd.prune._schedules import Cubic as Cubic
from sparsekd.prune._schedules import Schedule as Schedule
from sparsekd.prune._scores import Score as Score
from sparsekd.prune._scores import magnitude as magnitude
from sparsekd.prune._snap import SnapReport as SnapReport
from sparsekd.prune._snap import snap_ as snap_
from sparsekd.spec import NM as NM
from sparsekd.spec import Pattern as Pattern
from sparsekd.spec import Unstructured as Unstructured

__all__ = [
    "NM",
    "Constant",
    "Cubic",
    "Pattern",
    "PruneReport",
    "Pruner",
    "Schedule",
    "Score",
    "SnapReport",
    "Unstructured",
    "apply_masks_",
    "magnitude",
    "prune_",
    "snap_",
]
