"""Is this loss normal? Recorded runs of the same recipe, and what they say of a new one."""

from illada_lab.training.reference.usual import (
    FOLDER,
    SAME_CURVE,
    WINDOW,
    Reference,
    Usual,
    find_reference,
    recent,
    reference_for,
)

__all__ = ["FOLDER", "SAME_CURVE", "WINDOW", "Reference", "Usual", "find_reference", "recent", "reference_for"]
