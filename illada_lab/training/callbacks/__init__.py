"""What happens around training steps: measuring, saving, guarding, showing."""

from illada_lab.training.callbacks.history import History, Throughput, Validation
from illada_lab.training.callbacks.step import AtStart, StepCallback, is_due

__all__ = ["AtStart", "History", "StepCallback", "Throughput", "Validation", "is_due"]
