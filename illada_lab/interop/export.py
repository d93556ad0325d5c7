"""Published checkpoints out: our weights under the names, and our sizes in the fields, that other code reads."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from illada_lab.interop.files import CONFIG, GENERATION, INDEX, SINGLE, write_json
from illada_lab.interop.layout import Layout
from illada_lab.interop.layouts import LAYOUTS, choose_layout
from illada_lab.models.mask_predictor import MaskPredictor

# Bytes of a shard at most; that of the released 8B files. A larger tensor has a shard of its own.
SHARD_BYTES = 5 * 10**9


def export_published(
    predictor: MaskPredictor, path: str | Path, layout: str = "illada", shard_bytes: int = SHARD_BYTES
) -> Path:
    """Write a predictor in a published layout, for the code that reads those; `load_published` reads it back to the bit.

    Args:
        predictor: the model; adapters must have been merged.
        path: folder; made if need be. It must not hold a checkpoint.
        layout: illada, llada; llama (qwen3 with QK-norm) for transformers without remote code.
        shard_bytes: size of a file at most, unless one tensor is larger.

    Raises:
        ValueError: an unknown layout, a model that the family has no words for (QK-norm, the autoregressive twin), a folder with a
            checkpoint in it.

    Source: names and fields of the released files.
    """
    folder, chosen = Path(path), choose_layout(layout)
    if refused := chosen.refusal(predictor.spec):
        fitting = [name for name, other in LAYOUTS.items() if other.refusal(predictor.spec) is None]
        raise ValueError(f"{refused}; the layout {layout} has no place for it; layout={' or '.join(fitting)}")
    if adapted := next((name for name, _ in predictor.named_parameters() if ".base_layer." in name), None):
        raise ValueError(f"predictor.{adapted}; adapters are not merged; illada_lab.models.lora.merge(predictor)")
    if parted := next((name for name, p in predictor.named_parameters() if hasattr(p, "placements")), None):
        raise ValueError(f"predictor.{parted}; sharded over processes; export the checkpoint of the run")
    if found := next((p.name for p in folder.glob("*") if p.name == CONFIG or ".safetensors" in p.name), None):
        raise ValueError(f"path = {folder}; {found} is there, files of two models would be mixed; a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(predictor, folder, chosen, shard_bytes)
    write_json(folder / GENERATION, _generation(predictor))
    # Last: a folder without it is not a checkpoint, so a broken-off export is not taken for one.
    write_json(folder / CONFIG, _config(predictor, chosen))
    return folder


def _config(predictor: MaskPredictor, layout: Layout) -> dict[str, Any]:
    return {
        "architectures": [layout.architecture],
        "model_type": layout.model_type,
        **({} if layout.code is None else {"auto_map": layout.code.auto_map()}),
        **layout.config(predictor.spec, predictor.tokens),
        "torch_dtype": str(predictor.head_weight.dtype).removeprefix("torch."),
    }


def _generation(predictor: MaskPredictor) -> dict[str, Any]:
    """As released: the ids only; how a masked model writes is a sampler's matter, not transformers'."""
    tokens = predictor.tokens
    ids = {"bos_token_id": tokens.bos, "eos_token_id": tokens.eos, "pad_token_id": tokens.filler}
    return {"_from_model_config": True, **{name: value for name, value in ids.items() if value is not None}}


def _write_weights(predictor: MaskPredictor, folder: Path, layout: Layout, shard_bytes: int) -> None:
    from safetensors.torch import save_file

    plan = _plan(predictor.state_dict(), shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(plan, 1):
        file = SINGLE if len(plan) == 1 else f"model-{number:05}-of-{len(plan):05}.safetensors"
        shard = {layout.tensor_name(name): tensor for name, tensor in _on_host(predictor, names)}
        # Written aside: a file that breaks off never has the name of a whole one.
        save_file(shard, folder / f"{file}.partial", metadata={"format": "pt"})
        os.replace(folder / f"{file}.partial", folder / file)
        weight_map |= dict.fromkeys(shard, file)
    if len(plan) > 1:
        n_bytes = sum(t.numel() * t.element_size() for t in predictor.state_dict().values())
        write_json(folder / INDEX, {"metadata": {"total_size": n_bytes}, "weight_map": weight_map})


def _plan(state: dict[str, Tensor], shard_bytes: int) -> list[list[str]]:
    """Names of the parameters of each file, in the model's order."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in state.items():
        n_bytes = tensor.numel() * tensor.element_size()
        if shards[-1] and size + n_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += n_bytes
    return shards


def _on_host(predictor: MaskPredictor, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The parameters of one file, copied from a device only now: one file's worth is on the host at a time."""
    state = predictor.state_dict()
    for name in names:
        yield name, state[name].detach().cpu().contiguous()
