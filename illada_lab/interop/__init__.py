"""Published checkpoints in and out."""

from illada_lab.interop.published import export_published, is_published, load_published

__all__ = ["export_published", "is_published", "load_published"]
