"""Samplers: the reverse process."""

from illada_lab.samplers.canvas import Canvas
from illada_lab.samplers.confidence import Confidence
from illada_lab.samplers.decode import Rules
from illada_lab.samplers.fixed_length import FixedLength
from illada_lab.samplers.infill import Infill
from illada_lab.samplers.result import Sampled
from illada_lab.samplers.thinking import EndOfThinking
from illada_lab.samplers.transfer import EntropyBound, Factor, Threshold
from illada_lab.samplers.variable_length import VariableLength

__all__ = [
    "Canvas",
    "Confidence",
    "EndOfThinking",
    "EntropyBound",
    "Factor",
    "FixedLength",
    "Infill",
    "Rules",
    "Sampled",
    "Threshold",
    "VariableLength",
]
