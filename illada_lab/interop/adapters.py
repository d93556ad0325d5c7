"""Adapters alone, in peft's files and under published names: a few megabytes that others put on their copy of the base."""

from pathlib import Path

from illada_lab.interop.files import write_json
from illada_lab.interop.layouts import choose_layout
from illada_lab.models.lora import Lora, adapter_state
from illada_lab.models.mask_predictor import MaskPredictor

# peft wraps a model, and wraps what it wrapped.
_PREFIX = "base_model.model."


def export_adapters(
    predictor: MaskPredictor, lora: Lora, path: str | Path, layout: str = "illada", base: str | None = None
) -> Path:
    """Write adapter_config.json and adapter_model.safetensors, for `peft.PeftModel.from_pretrained` on the published base.

    Args:
        predictor: with adapters.
        lora: their settings.
        path: folder; made if need be.
        layout: of the base the adapters are for.
        base: its folder or hub id, which is named in the file; None: not named.

    Raises:
        ModuleNotFoundError: peft is not installed.
        ValueError: an unknown layout, or a predictor without adapters.
    """
    from safetensors.torch import save_file

    chosen, state = choose_layout(layout), adapter_state(predictor)
    if not state:
        raise ValueError("predictor; it has no adapters; one of `Lora.add_to`, not merged")
    named, modules = {}, set()
    for name, weight in state.items():
        matrix, _, part = name.partition(".lora_")
        theirs = chosen.tensor_name(f"{matrix}.weight").removesuffix(".weight")
        modules.add(theirs.rpartition(".")[2])
        named[f"{_PREFIX}{theirs}.lora_{part.replace('.default', '')}"] = weight.detach().cpu().contiguous()
    # LLaDA calls its head as it calls a layer's last matrix: there, only those inside of a block are meant.
    targets = rf".*\.\d+\.(.*\.)?({'|'.join(sorted(modules))})"
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = lora.peft_config(targets)
    config.base_model_name_or_path = base
    config.inference_mode = True
    write_json(folder / "adapter_config.json", config.to_dict())
    return folder
