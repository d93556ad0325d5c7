"""`illada-lab export`: write a trained model in a published layout."""

import json
from pathlib import Path

from omegaconf import DictConfig
from tokenizers import Tokenizer as Backend

from illada_lab.data.tokenizer import Tokenizer
from illada_lab.tokens import SpecialTokens


def run(config: DictConfig) -> int:
    """Write config.json, safetensors and the tokenizer; what cannot be written is said before anything is."""
    from illada_lab.commands.writing import load
    from illada_lab.interop import export_published

    if config.out is None:
        raise ValueError("out = null; where to?; out=<a new folder>")
    folder = Path(config.out)
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise ValueError(f"out = {folder}; there is something in it, which would be mixed with the model; a new folder")
    loaded = load(config)
    export_published(loaded.predictor, folder, config.layout)
    _write_tokenizer(loaded.tokenizer, loaded.predictor.tokens, folder)
    print(f"written: {folder}")
    return 0


def _write_tokenizer(tokenizer: Tokenizer, tokens: SpecialTokens, folder: Path) -> None:
    """The two files that readers of published models look for; ids with a role become special tokens there."""
    backend = Backend.from_str(tokenizer.backend.to_str())
    text = {role: backend.id_to_token(token) for role, token in tokens.to_dict().items() if token is not None}
    backend.add_special_tokens([shown for shown in text.values() if shown])
    backend.save(str(folder / "tokenizer.json"))
    about = {f"{role}_token": shown for role, shown in text.items() if shown}
    about |= {"chat_template": tokenizer.chat_template} if tokenizer.chat_template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
