"""Documents, tokenizers, packing and batches.

Names are imported when they are first used: `datasets` and `lightning` take seconds.
"""

import importlib
from typing import Any

_WHERE = {
    "Batch": "batch",
    "ChatTemplate": "chat",
    "ConcatAndCut": "packing",
    "DataModule": "datamodule",
    "OnePerRow": "packing",
    "TextSource": "text",
    "Tokenizer": "tokenizer",
    "WholeDocuments": "packing",
    "byte_tokenizer": "build_tokenizer",
    "pretrained": "pretrained_tokenizer",
    "train_bpe": "build_tokenizer",
    "word_tokenizer": "build_tokenizer",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__} has no {name}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
