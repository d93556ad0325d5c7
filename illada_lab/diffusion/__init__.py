"""Masked diffusion as pure functions of tensors: schedules, times, the forward process and the bound."""

from illada_lab.diffusion.forward_process import mask_tokens
from illada_lab.diffusion.nelbo import bits_per_byte, nelbo, per_token
from illada_lab.diffusion.randomness import RowRandom
from illada_lab.diffusion.schedule import CosineSchedule, LinearSchedule, Schedule
from illada_lab.diffusion.times import AntitheticTimes, StratifiedTimes, Times, UniformTimes

__all__ = [
    "AntitheticTimes",
    "CosineSchedule",
    "LinearSchedule",
    "RowRandom",
    "Schedule",
    "StratifiedTimes",
    "Times",
    "UniformTimes",
    "bits_per_byte",
    "mask_tokens",
    "nelbo",
    "per_token",
]
