"""`illada-lab export`: write a trained model in a published layout."""

import json
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

USED = ("checkpoint", "dtype", "layout", "out")


def translate(overrides: Sequence[str]) -> list[str]:
    """The overrides as they are; raises ValueError for those without effect."""
    from illada_lab.commands.effect import refuse_without_effect

    return refuse_without_effect("export", overrides, USED)


def run(config: DictConfig) -> int:
    """Write config.json, safetensors, the tokenizer and a manifest; what cannot be written is said before anything is.

    Of a run with adapters the merged model is written: nothing but the weights differs from its base.
    """
    from illada_lab.commands.export_tokenizer import write_tokenizer
    from illada_lab.commands.writing import is_chat, load
    from illada_lab.evaluation.folder import fingerprint
    from illada_lab.files import check_writable, write_text
    from illada_lab.interop import export_published
    from illada_lab.manifest import manifest
    from illada_lab.tokens import has_eos_of

    if config.out is None:
        raise ValueError("out = null; where to?; out=<a new folder>")
    folder = Path(config.out)
    check_writable("out", folder, is_folder=True)
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise ValueError(f"out = {folder}; there is something in it, which would be mixed with the model; a new folder")
    loaded = load(config, stays=True)
    predictor = loaded.predictor
    export_published(predictor, folder, config.layout)
    write_tokenizer(
        loaded.tokenizer,
        loaded.tokenizer.tokens,  # the model's, and roles that only a published tokenizer names
        folder,
        max_length=predictor.spec.max_length,
        is_chat=is_chat(loaded.config),
        adds_bos=bool(loaded.config["data"].get("adds_bos")),
        adds_eos=has_eos_of(loaded.config["data"]),
    )
    told = {
        **manifest(seed=loaded.config.get("seed", 0), scale=loaded.config["scale"]["name"]),
        "checkpoint": str(loaded.path),
        "step": loaded.step,
        "weights": fingerprint(predictor),
        "layout": config.layout,
        "config": loaded.config,
    }
    write_text(folder / "manifest.json", json.dumps(told, indent=1) + "\n")
    print(f"written: {folder}")
    return 0
