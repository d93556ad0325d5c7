"""Attention kernels behind one call, and which of them is used.

A kernel turns who sees whom in a batch (`Sight`) into a `View`, once per pass; every layer then calls the view with its queries,
keys and values. All kernels give the same numbers; `choose` picks one, and says so where it is not the one that was asked for.
"""

from illada_lab.models.kernels.choice import ATTENTION, KERNELS, Attention, choose, trial
from illada_lab.models.kernels.dense import Dense
from illada_lab.models.kernels.kernel import Kernel, Need, View
from illada_lab.models.kernels.sight import Sight

__all__ = ["ATTENTION", "KERNELS", "Attention", "Dense", "Kernel", "Need", "Sight", "View", "choose", "trial"]
