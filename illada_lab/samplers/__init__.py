"""Samplers: the reverse process."""

from illada_lab.samplers.fixed_length import FixedLength
from illada_lab.samplers.result import Sampled
from illada_lab.samplers.variable_length import VariableLength

__all__ = ["FixedLength", "Sampled", "VariableLength"]
