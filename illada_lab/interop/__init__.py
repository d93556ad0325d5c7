"""Published checkpoints in and out."""

from illada_lab.interop.adapters import export_adapters
from illada_lab.interop.export import export_published
from illada_lab.interop.hub import RELEASED, checkpoint_folder
from illada_lab.interop.published import (
    adds_bos,
    adds_eos,
    is_published,
    load_published,
    load_published_into,
    published_tokens,
    scores_with_eos,
    trained_on_chat,
)

__all__ = [
    "RELEASED",
    "adds_bos",
    "adds_eos",
    "checkpoint_folder",
    "export_adapters",
    "export_published",
    "is_published",
    "load_published",
    "load_published_into",
    "published_tokens",
    "scores_with_eos",
    "trained_on_chat",
]
