"""A laboratory for masked diffusion language models, built around iLLaDA (arXiv 2606.25331)."""

import os
import warnings
from typing import Any

# Threads that wait by spinning keep a core from whoever needs it: on two cores one other busy program made a training step four to six
# times as long. Asleep they cost 3 to 8 % of a toy's step (benchmarks/README.md). Read once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What a notebook would show first of all: another package's wish for widgets, for bars that are not shown.
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"
__all__ = ["__version__", "build", "check", "compose", "load_predictor"]


def __getattr__(name: str) -> Any:
    """Public names, imported when they are first used: `import illada_lab` stays fast."""
    if name in ("build", "check", "compose"):
        from illada_lab import config

        return getattr(config, name)
    if name == "load_predictor":
        from illada_lab.training.checkpoint import load_predictor

        return load_predictor
    raise AttributeError(f"module 'illada_lab' has no attribute {name!r}")
