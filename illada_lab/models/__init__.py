"""The mask predictor and its parts."""

from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.models.protocol import HiddenPredictor, Predictor
from illada_lab.models.segments import PackedSegments
from illada_lab.models.spec import ModelSpec

__all__ = ["HiddenPredictor", "MaskPredictor", "ModelSpec", "PackedSegments", "Predictor"]
