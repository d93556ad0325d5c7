"""Tokenizers of published models, from a folder, a file or the Hugging Face hub."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from illada_lab.data.tokenizer import Tokenizer
from illada_lab.tokens import SpecialTokens

# What a token for [MASK] is called where one is added. Source: LLaDA's tokenizer.
MASK = "<|mdm_mask|>"
ROLES = ("bos", "eos", "pad", "unk", "mask")
# What a tokenizer consists of; the first is a must.
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
# Our keys in the second: a tokenizer of ours that knows whole words only, so that an unknown one is refused; how special ids are written.
WORD_LEVEL, SPECIAL_TEXT = "is_word_level", "special_text"


def pretrained(path: str, *, mask: int | None = None, adds_mask: bool = False, **roles: int | None) -> Tokenizer:
    """A tokenizer from a folder, a `tokenizer.json` file, or a Hugging Face hub id, with or without @revision.

    Args:
        path: where it is.
        mask: id of [MASK]; needed where the tokenizer names none (LLaDA's and iLLaDA's do not).
        adds_mask: add a token for it behind the vocabulary, for a tokenizer that has none (GPT-2's).
        roles: other special ids (eos, bos, pad, unk, eot) that override the tokenizer's own.

    Raises:
        FileNotFoundError: there is no such file or folder and the hub cannot be reached.
        ValueError: the file is no tokenizer, or a special id is missing; nothing is guessed. Or a mask is to be added where there is one.
    """
    file = _file(path)
    try:
        backend = Backend.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(
            f"tokenizer.path = {file}; not a tokenizer ({_first_line(error)}); a tokenizer.json"
        ) from error
    own = {key: value for key, value in _read(file.with_name(FILES[1])).items() if value is not None}
    config = {**_read(file.with_name(FILES[2])), **own}
    ids: dict[str, int | None] = {}
    for role in ROLES:
        named = config.get(f"{role}_token")
        text = named.get("content") if isinstance(named, dict) else named
        ids[role] = backend.token_to_id(text) if text else None
    ids |= {role: value for role, value in {"mask": mask, **roles}.items() if value is not None}
    if adds_mask:
        ids["mask"] = _added_mask(backend, path, ids["mask"])
    if missing := [role for role in ("mask", "eos") if ids.get(role) is None]:
        role = missing[0]
        names = {"mask": ("mask",), "eos": ("eos", "endoftext", "end_of_text", "</s>")}[role]
        added = backend.get_added_tokens_decoder().items()
        named = [f"{i} {t.content}" for i, t in added if any(name in t.content.lower() for name in names)]
        hint = f"by their names perhaps {', '.join(named[:3])}" if named else "see the model card"
        own = " or, where it has none, tokenizer.adds_mask=true" if role == "mask" else ""
        raise ValueError(
            f"tokenizer.{role} = null; {path} does not name its {role} token, and it is not guessed; "
            f"pass tokenizer.{role}=<id> ({hint}){own}"
        )
    return Tokenizer(
        backend,
        SpecialTokens.from_dict(ids),
        chat_template=_template(file, config),
        is_word_level=bool(config.get(WORD_LEVEL)),
        special_text={int(i): text for i, text in config.get(SPECIAL_TEXT, {}).items()},
    )


def _added_mask(backend: Backend, path: str, mask: int | None) -> int:
    """Id of a new token for [MASK], behind all others."""
    if mask is None:
        mask = backend.token_to_id(MASK)
    if mask is not None:
        raise ValueError(
            f"tokenizer.adds_mask = true; {path} has a mask token, {mask} ({backend.id_to_token(mask)}); false, and tokenizer.mask={mask}"
        )
    backend.add_special_tokens([AddedToken(MASK, special=True)])
    mask = backend.token_to_id(MASK)
    assert mask is not None, "it has just been added"
    return mask


def _file(path: str) -> Path:
    """The tokenizer.json a path means."""
    local = Path(path).expanduser()
    if local.is_dir():
        if not (local / FILES[0]).is_file():
            raise FileNotFoundError(
                f"tokenizer.path = {path}; no {FILES[0]} in this folder; a folder, a file or a hub id"
            )
        return local / FILES[0]
    if local.is_file():
        return local
    if path.startswith((".", "/", "~")) or path.partition("@")[0].count("/") > 1 or path.endswith(".json"):
        raise FileNotFoundError(
            f"tokenizer.path = {path}; no such file or folder; a folder with {FILES[0]}, the file, or a hub id"
        )
    from huggingface_hub import snapshot_download

    try:
        repository, _, revision = path.partition("@")
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES)))
    except Exception as error:  # many classes: offline, not found, not permitted, no such name
        raise FileNotFoundError(
            f"tokenizer.path = {path}; neither a local file nor reachable on the hub ({type(error).__name__}); "
            f"a folder with {FILES[0]}, or a network"
        ) from error
    if not (folder / FILES[0]).is_file():
        raise FileNotFoundError(f"tokenizer.path = {path}; this hub repository has no {FILES[0]}; one that has")
    return folder / FILES[0]


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"tokenizer.path = {file}; not JSON ({_first_line(error)}); the file as it was published"
        ) from error


def _template(file: Path, config: dict[str, Any]) -> str | None:
    """The chat template: a file of its own, or an entry of the configuration (of several, the one called default)."""
    beside = file.with_name(FILES[3])
    if beside.is_file():
        return beside.read_text("utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        return next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    return template


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120]
