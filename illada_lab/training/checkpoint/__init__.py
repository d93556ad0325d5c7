"""Checkpoints: written aside and renamed, read without running code from the file, loaded as models."""

from illada_lab.training.checkpoint.loading import LoadedRun, load_predictor, load_run, load_weights
from illada_lab.training.checkpoint.reading import (
    find_checkpoint,
    find_resumable,
    find_saved,
    predictor_state,
    read_about,
    read_checkpoint,
    told_as,
)
from illada_lab.training.checkpoint.writing import (
    ABSENT,
    BEFORE_DECAY,
    BEST,
    FORMAT,
    LAST,
    PREVIOUS,
    SaveFailed,
    partial_of,
    put_in_place,
    save_atomically,
    save_failed,
)

__all__ = [
    "ABSENT",
    "BEFORE_DECAY",
    "BEST",
    "FORMAT",
    "LAST",
    "PREVIOUS",
    "LoadedRun",
    "SaveFailed",
    "find_checkpoint",
    "find_resumable",
    "find_saved",
    "load_predictor",
    "load_run",
    "load_weights",
    "partial_of",
    "predictor_state",
    "put_in_place",
    "read_about",
    "read_checkpoint",
    "save_atomically",
    "save_failed",
    "told_as",
]
