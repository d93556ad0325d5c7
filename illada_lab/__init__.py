"""A laboratory for masked diffusion language models, built around iLLaDA (arXiv 2606.25331)."""

from typing import Any

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
