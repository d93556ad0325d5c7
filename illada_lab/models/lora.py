"""Low-rank adapters (LoRA) on a mask predictor, through peft: the base stays as it is, a few small matrices learn."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from illada_lab.models.mask_predictor import MaskPredictor

# Matrices of a layer that can have an adapter, by the names they have in it.
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """W x becomes W x + (alpha / rank) B A x, with A [rank, in] drawn at random and B [out, rank] at zero; only A and B are trained.

    Args:
        rank: rows of A.
        alpha: the update's scale, times `rank`.
        dropout: share of the adapter's inputs set to zero in training, 0 to below 1.
        targets: which matrices of every layer.
        is_base_bf16: keep the frozen weights in bf16: as published, and half of float32's memory.

    Raises:
        ValueError: numbers out of range, or a target that is no matrix of a layer.

    Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1; rank, alpha and targets are our choice: peft users' usual ones.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: Sequence[str] = ATTENTION + FEED_FORWARD
    is_base_bf16: bool = False

    def __post_init__(self) -> None:
        if problems := self.check_config(**asdict(self)):
            raise ValueError("; ".join(problems))
        object.__setattr__(self, "targets", tuple(self.targets))  # a list, as YAML gives it, could not be hashed

    @staticmethod
    def check_config(**values: Any) -> list[str]:
        """Problems of a set of arguments, for `illada_lab.config.check`."""
        found, known = [], (*ATTENTION, *FEED_FORWARD)
        if values.get("rank", 1) < 1:
            found.append(f"rank = {values['rank']}; rows of a matrix; 1 or more")
        if values.get("alpha", 1) <= 0:
            found.append(f"alpha = {values['alpha']}; scales what is learnt; above 0, for example twice the rank")
        if not 0 <= values.get("dropout", 0) < 1:
            found.append(f"dropout = {values['dropout']}; a share; 0 to below 1")
        targets = values.get("targets", known)
        if isinstance(targets, str):
            found.append(f"targets = {targets}; one word, not several; [{targets}]")
        elif not targets or (set(targets) - set(known)):
            found.append(f"targets = {list(targets)}; matrices of a layer, one or more; of {', '.join(known)}")
        return found

    def to_config(self) -> dict[str, Any]:
        """Constructor arguments as plain data for checkpoints."""
        return {**asdict(self), "targets": list(self.targets)}

    def peft_config(self, targets: str | None = None) -> Any:
        """The same in peft's words; `targets`: a pattern of the matrices' names where they are others."""
        from peft import LoraConfig  # pyright: ignore[reportMissingImports]

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # pyright: ignore[reportArgumentType] # a whole number by peft's annotation; it only divides it
            lora_dropout=self.dropout,
            target_modules=targets or list(self.targets),
            bias="none",
        )

    def cast_base(self, predictor: MaskPredictor) -> MaskPredictor:
        """Bring a base to the precision it is kept in; on the meta device, before it has weights, this costs nothing."""
        return predictor.to(torch.bfloat16) if self.is_base_bf16 else predictor

    def add_to(self, predictor: MaskPredictor, seed: int = 0) -> MaskPredictor:
        """Put adapters into a predictor, in place, and freeze the rest; until something is learnt it predicts as before.

        Args:
            predictor: with its weights, whole on its device.
            seed: of the adapters' initial weights.

        Raises:
            ModuleNotFoundError: peft is not installed.
            ValueError: the predictor has adapters already, or is sharded: adapters would then learn apart in every process.
        """
        from peft import inject_adapter_in_model  # pyright: ignore[reportMissingImports]

        if is_adapted(predictor):
            raise ValueError("lora; the predictor has adapters already; merge them first")
        if any(hasattr(parameter, "placements") for parameter in predictor.parameters()):
            raise ValueError("lora; not with weights that are sharded over processes; trainer=auto or ddp")
        self.cast_base(predictor)
        # Drawn on the CPU, whatever the default device: the same numbers everywhere.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            inject_adapter_in_model(self.peft_config(), predictor)
        for name, parameter in predictor.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()  # bf16 would swallow small updates
        return predictor


def is_adapted(predictor: nn.Module) -> bool:
    """Whether a predictor has adapters that are not merged."""
    return any(".lora_" in name for name, _ in predictor.named_parameters())


def adapter_state(predictor: nn.Module) -> dict[str, Tensor]:
    """The adapters' weights, named as the predictor names them."""
    return {name: value for name, value in predictor.state_dict().items() if ".lora_" in name}


@torch.no_grad()
def load_adapters(predictor: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy adapters' weights into a predictor that has such adapters.

    Raises:
        ValueError: they are others, or of another rank.
    """
    own = adapter_state(predictor)
    differing = sorted(set(own) ^ set(state)) or sorted(name for name in own if own[name].shape != state[name].shape)
    if differing:
        raise ValueError(
            f"lora; {differing[0]} does not fit ({len(differing)} differ); the rank and targets of training"
        )
    for name, value in own.items():
        value.copy_(state[name])


@torch.no_grad()
def merge(predictor: MaskPredictor) -> MaskPredictor:
    """Add what the adapters have learnt to the weights and take the adapters out, in place: a plain predictor again.

    The sum is rounded to the weights' precision: in bf16 the merged model differs from the adapted one by that.

    Raises:
        ValueError: a sum is not finite; nothing has been changed in that matrix.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer  # pyright: ignore[reportMissingImports]

    layers: list[tuple[str, Any]] = [(n, m) for n, m in predictor.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, module in layers:
        module.merge(safe_merge=True)
        parent, _, leaf = name.rpartition(".")
        setattr(predictor.get_submodule(parent), leaf, module.get_base_layer())
    predictor.__dict__.pop("peft_config", None)  # what peft knows a model with adapters by
    return predictor.requires_grad_(True)


def fingerprint(predictor: MaskPredictor, n_values: int = 64) -> str:
    """What a base model is recognised by: a hash of the names, the shapes and the first values of all its weights.

    The same in every precision that holds the values, unlike the fingerprint of a result (`evaluation/folder.py`): a base published in
    bf16 may have been adapted in float32.

    Args:
        predictor: without adapters.
        n_values: values of each weight; all of them would take a minute at 8B.
    """
    digest = hashlib.sha256()
    for name, weight in predictor.named_parameters():
        digest.update(f"{name} {list(weight.shape)}".encode())
        digest.update(weight.detach().flatten()[:n_values].float().cpu().numpy().tobytes())
    return digest.hexdigest()
