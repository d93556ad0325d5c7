"""Published checkpoints by hub id: what an id looks like, and where its files lie on this machine."""

import difflib
import re
from pathlib import Path

# What the papers' authors have released in these layouts.
RELEASED = (
    "GSAI-ML/LLaDA-8B-Base",
    "GSAI-ML/LLaDA-8B-Instruct",
    "GSAI-ML/LLaDA-1.5",
    "GSAI-ML/iLLaDA-8B-Base",
    "GSAI-ML/iLLaDA-8B-Instruct",
)
# All that is read of a repository: no code, no weights in other formats.
FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
# First folders of what this package writes: a run that is not there is not looked for on the hub.
_OURS = ("runs", "results")
_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


def is_hub_id(name: str | Path) -> bool:
    """Whether a name means a hub repository, owner/name or owner/name@revision, and nothing on this machine.

    A name in a folder that exists here, or that this package writes to (runs/base, mistyped), is a path, not an id.
    """
    text = str(name)
    first = text.partition("/")[0]
    return bool(_ID.fullmatch(text)) and first not in _OURS and not Path(text).exists() and not Path(first).is_dir()


def checkpoint_folder(name: str | Path) -> Path:
    """The folder of a published checkpoint; the files of a hub id come from the cache, or are downloaded.

    Args:
        name: a folder, or a hub id with or without @revision (branch, tag or commit).

    Raises:
        FileNotFoundError: neither here nor to be had; one line that says why and what is near.
    """
    if not is_hub_id(name):
        return Path(name)
    from huggingface_hub import snapshot_download

    repository, _, revision = str(name).partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES)))
    except Exception as error:  # many classes: offline, not found, gated, no such revision, a full disk
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise FileNotFoundError(f"checkpoint = {name}; {_why(error)}; {_instead(repository)}") from error


def _why(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "the hub asks for a login and an accepted licence"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the hub has no such revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no file or folder here, and no repository on the hub"
    return f"no file or folder here, not in the cache, and the hub cannot be reached ({type(error).__name__})"


def _instead(repository: str) -> str:
    if repository in RELEASED:
        return f"`hf download {repository}` where there is a network, then HF_HOME of that cache, or the folder"
    by_lower = {name.lower(): name for name in RELEASED}
    owner_less = {name.partition("/")[2].lower(): name for name in RELEASED}
    near = [by_lower[match] for match in difflib.get_close_matches(repository.lower(), by_lower, n=2, cutoff=0.8)]
    wanted = repository.partition("/")[2].lower()
    near = near or [owner_less[match] for match in difflib.get_close_matches(wanted, owner_less, n=2, cutoff=0.8)]
    return f"did you mean {' or '.join(near)}?" if near else f"a folder, or one of {', '.join(RELEASED)}"
