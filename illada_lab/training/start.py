"""What a new run starts from: a run of ours, a checkpoint of adapters, or a published model."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from illada_lab.config import to_plain
from illada_lab.config.types import shown
from illada_lab.interop import (
    adds_bos,
    adds_eos,
    checkpoint_folder,
    is_published,
    load_published_into,
    published_tokens,
    scores_with_eos,
)
from illada_lab.interop.files import CONFIG, read_json
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.tokens import has_eos_of
from illada_lab.training.checkpoint import (
    find_checkpoint,
    load_predictor,
    load_weights,
    read_about,
    read_checkpoint,
    shards,
    told_as,
)

if TYPE_CHECKING:
    from illada_lab.data.tokenizer import Tokenizer

# How weights were first drawn does not matter to a trained model; the angles of its positions go on behind the longest row it has seen.
FREE = ("init_std", "max_length")
# What conf/data chooses where nobody does: no sign that somebody wanted it.
USUAL_TOKENIZERS = ("words", "bpe", "prepared")


@told_as("init_from")
def load_start(predictor: MaskPredictor, path: str | Path) -> None:
    """Give a new predictor the weights of a trained one, in place; those of a published model may go into sharded parameters.

    Args:
        predictor: composed as it was.
        path: run, checkpoint (file, or folder of shards), published folder or hub id. Each process reads what it holds.

    Raises:
        FileNotFoundError, ValueError: see `load_published_into` and `load_weights`; or settings that are not the trained model's, one line
            each.
    """
    if is_published(path):
        load_published_into(predictor, path)
        return
    checkpoint = find_checkpoint(path)
    _check_model(predictor, read_about(checkpoint)["illada_lab"], path)
    if shards.is_shards(checkpoint):
        shards.read_into(checkpoint, {f"predictor.{name}": p for name, p in predictor.named_parameters()}, None, {})
        return
    payload = read_checkpoint(checkpoint, is_mapped=True)
    if "lora" in payload["illada_lab"]:
        whole = load_predictor(path).state_dict()
        payload["state_dict"] = {f"predictor.{name}": weight for name, weight in whole.items()}
    load_weights(predictor, payload, checkpoint)


def _check_model(predictor: MaskPredictor, about: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a predictor that computes something else than the one whose weights it would get: names and shapes of tensors do not tell."""
    own, trained = predictor.to_config(), about["model"]
    target = about["config"]["model"]["_target_"]
    told = [
        (key, own[key], trained[key]) for key in trained if key in own and key not in FREE and own[key] != trained[key]
    ]
    # A subclass may well start from the weights of its base.
    if str(target).rpartition(".")[2] not in {known.__name__ for known in type(predictor).__mro__}:
        told.append(("_target_", type(predictor).__name__, target))
    if told:
        raise ValueError(
            "\n".join(
                f"model.{key} = {_shown(is_now)}; {path} was trained with {_shown(was)}, init_from takes its weights alone; "
                f"model.{key}={_shown(was)}"
                for key, is_now, was in told
            )
        )


def _shown(value: object) -> str:
    return value if isinstance(value, str) else shown(value)


def say_start(config: DictConfig, tokenizer: "Tokenizer", *, has_conversations: bool) -> None:
    """Say on the error stream where a new run leaves the model of `init_from` behind, or its own settings, which may not be meant.

    Args:
        config: composed, with `init_from`.
        tokenizer: of that model.
        has_conversations: the data; these bring what stands in front of them.
    """
    for line in [*_unused_tokenizer(config), *([] if has_conversations else _other_ends(config, tokenizer))]:
        print(line, file=sys.stderr, flush=True)


def _unused_tokenizer(config: DictConfig) -> Iterator[str]:
    """A line where somebody has asked for a tokenizer that is not the model's."""
    from illada_lab.training.recipe import differences

    now, path = to_plain(config.tokenizer), config.init_from
    name = str(now["_target_"]).rpartition(".")[2]
    if name in USUAL_TOKENIZERS and now.get("vocab_size") in (None, config.scale.vocab_size):
        return
    was = {**now, "path": path} if is_published(path) else read_about(path)["illada_lab"]["config"]["tokenizer"]
    for key, _, is_now in differences(was, now):
        yield f"tokenizer.{key} = {is_now}; not used: the tokenizer of {path} comes with its weights; init_from=null for a new one"
        return


def _other_ends(config: DictConfig, tokenizer: "Tokenizer") -> Iterator[str]:
    """A line where BOS and EOS stand elsewhere than in the texts that the model has learnt from."""
    data, path = to_plain(config.data), config.init_from
    now = {"adds_bos": bool(data.get("adds_bos")), "adds_eos": has_eos_of(data)}
    was = _ends(path, tokenizer)
    if changed := [key for key in was if was[key] != now[key]]:
        places = {"adds_bos": "BOS in front", "adds_eos": "EOS behind"}
        before = " and ".join(("" if was[key] else "no ") + places[key] for key in changed)
        # A file of one's own may not name the setting.
        right = " ".join(f"{'' if key in data else '+'}data.{key}={shown(was[key])}" for key in changed)
        where = " keeps it, in prepare too" if "weights" in data.get("source", {}) else " keeps it"
        yield (
            f"{', '.join(f'data.{key} = {shown(now[key])}' for key in changed)}; texts of {path} have {before}, this run changes that, for "
            f"sample and evaluate too; {right}{where}"
        )


def _ends(path: str | Path, tokenizer: "Tokenizer") -> dict[str, bool]:
    """Whether BOS stood in front of the texts of a trained model, and EOS behind; what is not known is left out."""
    if not is_published(path):
        data = read_about(path)["illada_lab"]["config"]["data"]
        return {"adds_bos": bool(data.get("adds_bos")), "adds_eos": has_eos_of(data)}
    found = {"adds_bos": adds_bos(path, tokenizer.backend)}
    is_known = scores_with_eos(path) is None
    return {**found, "adds_eos": adds_eos(path)} if is_known else found


def start_tokenizer(path: str | Path) -> "Tokenizer":
    """The tokenizer of a trained model, run of ours or published.

    An end of turn that config.json does not name, but the family's tokenizers have, is left out where this one does not have it (LLaDA's
    base model).
    """
    from tokenizers import Tokenizer as Backend

    from illada_lab.data.pretrained_tokenizer import pretrained
    from illada_lab.data.tokenizer import Tokenizer

    if not is_published(path):
        return Tokenizer.from_dict(read_about(path)["illada_lab"]["tokenizer"])
    folder = checkpoint_folder(path)
    roles = {role: token for role, token in published_tokens(folder).to_dict().items() if token is not None}
    file = folder / "tokenizer.json"
    is_guessed = "eot" in roles and read_json(folder / CONFIG).get("eot_token_id") is None
    if is_guessed and file.is_file() and Backend.from_file(str(file)).id_to_token(roles["eot"]) is None:
        del roles["eot"]
    return pretrained(str(folder), adds_mask=False, **roles)
