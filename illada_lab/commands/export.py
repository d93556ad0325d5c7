"""`illada-lab export`: write a trained model in a published layout."""

from pathlib import Path

from omegaconf import DictConfig


def run(config: DictConfig) -> int:
    """Write config.json, safetensors and the tokenizer; what cannot be written is said before anything is.

    Of a run with adapters the merged model is written: nothing but the weights differs from its base.
    """
    from illada_lab.commands.export_tokenizer import write_tokenizer
    from illada_lab.commands.writing import is_chat, load
    from illada_lab.interop import export_published

    if config.out is None:
        raise ValueError("out = null; where to?; out=<a new folder>")
    folder = Path(config.out)
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise ValueError(f"out = {folder}; there is something in it, which would be mixed with the model; a new folder")
    loaded = load(config, stays=True)
    predictor = loaded.predictor
    export_published(predictor, folder, config.layout)
    write_tokenizer(
        loaded.tokenizer,
        predictor.tokens,
        folder,
        max_length=predictor.spec.max_length,
        is_chat=is_chat(loaded.config),
        adds_bos=bool(loaded.config["data"].get("adds_bos")),
        adds_eos=bool(loaded.config["data"].get("adds_eos")),
    )
    print(f"written: {folder}")
    return 0
