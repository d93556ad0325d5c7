"""Training objectives."""

from illada_lab.objectives.autoregressive import Autoregressive
from illada_lab.objectives.loss import Loss, Objective, cross_entropy_at
from illada_lab.objectives.pretrain import Pretrain
from illada_lab.objectives.sft_response_only import ResponseOnly
from illada_lab.objectives.shorten import RandomCut, RandomLength

__all__ = [
    "Autoregressive",
    "Loss",
    "Objective",
    "Pretrain",
    "RandomCut",
    "RandomLength",
    "ResponseOnly",
    "cross_entropy_at",
]
