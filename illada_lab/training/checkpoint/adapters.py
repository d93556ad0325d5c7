"""Fine-tuning with adapters (LoRA): where a run starts from, and checkpoints that hold what it has learnt, not the base."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig

from illada_lab.config import build
from illada_lab.models.lora import Lora, fingerprint, load_adapters, merge
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.tokens import SpecialTokens


def add_adapters(predictor: MaskPredictor, config: DictConfig) -> dict[str, Any]:
    """Put the adapters of `config.lora` into a predictor that has the weights of `config.init_from`.

    Returns:
        What checkpoints tell of it, for `load_adapted`.

    Raises:
        ValueError: there is no base to adapt.
    """
    lora: Lora = build(config.lora)
    if config.init_from is None:
        raise ValueError("init_from = null; adapters need a trained model to adapt; init_from=<run, folder or hub id>")
    base = str(config.init_from)
    about = {
        "path": str(Path(base).resolve()) if Path(base).exists() else base,
        "fingerprint": fingerprint(lora.cast_base(predictor)),
    }
    lora.add_to(predictor, seed=config.seed)
    return {"lora": lora.to_config(), "base": about}


class Adapters(Callback):
    """What is different in a run of adapters: small checkpoints, and dropout.

    Frozen weights are left out of checkpoints: at 8B megabytes instead of sixteen gigabytes. The adapters' dropout, the only part of
    training that draws from torch's global generator, depends on the seed and the samples, so a resumed run draws the same.

    Args:
        seed: of the run.
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the draws of this micro-batch anew, by its first sample."""
        key = np.random.SeedSequence([self.seed, int(batch.index[0])]).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(key >> np.uint64(1)))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """A resumed run has its base from `init_from`; the checkpoint brings the rest."""
        pl_module.strict_loading = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the weights that are trained."""
        trained = {name for name, parameter in pl_module.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {name: w for name, w in checkpoint["state_dict"].items() if name in trained}


def load_adapted(
    about: dict[str, Any],
    state: dict[str, Any],
    path: Path,
    tokens: SpecialTokens | None = None,
    *,
    is_merged: bool = True,
) -> MaskPredictor:
    """The base of a checkpoint of adapters with what they have learnt.

    Args:
        about: what the checkpoint tells of its run.
        state: the adapters' weights.
        path: of the checkpoint, for messages.
        tokens: special tokens instead of the base's.
        is_merged: add the adapters to the weights, so that nothing else need know of them.

    Raises:
        FileNotFoundError: the base is gone.
        ValueError: another model lies where it was, or the adapters do not fit.
    """
    from illada_lab.training.checkpoint import load_predictor

    base = about["base"]
    try:
        predictor = load_predictor(base["path"], tokens or SpecialTokens.from_dict(about["tokens"]))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"checkpoint = {path}; adapters only, and their base cannot be had ({error}); put it back, or export merged models"
        ) from error
    lora = Lora(**about["lora"])
    if fingerprint(lora.cast_base(predictor)) != base["fingerprint"]:
        raise ValueError(
            f"checkpoint = {path}; adapters of another model than the one at {base['path']}; the base they were trained on"
        )
    load_adapters(lora.add_to(predictor), state)
    return (merge(predictor) if is_merged else predictor).eval()
