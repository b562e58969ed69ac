"""Knowledge distillation: a teacher's answers as part of the student's loss.

>>> distiller = Distiller(student, teacher, losses=[SoftTarget(temperature=4.0), HardLabels()])
>>> loss = distiller((images, labels))
"""

from sparsekd.distill._distiller import Distiller as Distiller
from sparsekd.distill._losses import HardLabels as HardLabels
from sparsekd.distill._losses import Loss as Loss
from sparsekd.distill._losses import SoftTarget as SoftTarget
from sparsekd.distill._losses import soft_target as soft_target
from sparsekd.distill._schedules import Constant as Constant
from sparsekd.distill._schedules import CosineDecay as CosineDecay
from sparsekd.distill._schedules import LinearDecay as LinearDecay
from sparsekd.distill._schedules import WeightSchedule as WeightSchedule

__all__ = [
    "Constant",
    "CosineDecay",
    "Distiller",
    "HardLabels",
    "LinearDecay",
    "Loss",
    "SoftTarget",
    "WeightSchedule",
    "soft_target",
]
