"""What a new run starts from: a run of ours, a checkpoint of adapters, or a published model."""

from pathlib import Path
from typing import TYPE_CHECKING

from illada_lab.interop import checkpoint_folder, is_published, load_published_into, published_tokens
from illada_lab.interop.files import CONFIG, read_json
from illada_lab.models.mask_predictor import MaskPredictor
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


@told_as("init_from")
def load_start(predictor: MaskPredictor, path: str | Path) -> None:
    """Give a new predictor the weights of a trained one, in place; those of a published model may go into sharded parameters.

    Args:
        predictor: of the same sizes.
        path: run, checkpoint (file, or folder of shards), published folder or hub id. Each process reads what it holds.

    Raises:
        FileNotFoundError, ValueError: see `load_published_into` and `load_weights`.
    """
    if is_published(path):
        load_published_into(predictor, path)
        return
    checkpoint = find_checkpoint(path)
    if shards.is_shards(checkpoint):
        shards.read_into(checkpoint, {f"predictor.{name}": p for name, p in predictor.named_parameters()}, None, {})
        return
    payload = read_checkpoint(checkpoint, is_mapped=True)
    if "lora" in payload["illada_lab"]:
        whole = load_predictor(path).state_dict()
        payload["state_dict"] = {f"predictor.{name}": weight for name, weight in whole.items()}
    load_weights(predictor, payload, checkpoint)


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
    return pretrained(str(folder), **roles)
