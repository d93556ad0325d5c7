"""A ladder of sizes at equal FLOPs: what a scaling experiment measures at the bottom and plans above."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from illada_lab.models import ModelSpec
from illada_lab.planner.compute import flops_per_token
from illada_lab.planner.devices import Device

PLANNED = "planned"
# Of iLLaDA 8B (Table 1): 4096 / 32 layers, 14,336 / 4096, 32 / 8 heads.
WIDTH_PER_LAYER, FFN_PER_WIDTH, QUERIES_PER_KEY = 128, 3.5, 4
MIN_LAYERS = 2


@dataclass(frozen=True)
class Rung:
    """One size at one budget.

    Attributes:
        name: of the size.
        kind: "planned"; a measured row says so in its place.
        parameters, non_embedding: counts.
        tokens: that the budget pays for.
        flops: the budget.
        tokens_per_parameter: tokens over non-embedding parameters (Chinchilla's optimum for autoregressive models is about 20).
        device: what the hours are of.
        device_hours: at the assumed MFU.
    """

    name: str
    kind: str
    parameters: int
    non_embedding: int
    tokens: float
    flops: float
    tokens_per_parameter: float
    device: str
    device_hours: float

    def to_dict(self) -> dict[str, Any]:
        """A row of a tidy table."""
        return asdict(self)


def in_proportion(d_model: int, *, vocab_size: int, length: int, has_qk_norm: bool = False) -> dict[str, Any]:
    """Sizes of a smaller iLLaDA: its ratios of depth, feed-forward part and key/value heads to the width.

    Args:
        d_model: width; a multiple of 32.
        vocab_size: V.
        length: longest sequence.
        has_qk_norm: RMSNorm on queries and keys, as the toy has it.

    Returns:
        Keyword arguments of `ModelSpec` (and of `MaskPredictor`, beside its tokens).

    Raises:
        ValueError: a width that no head size divides.

    Source: iLLaDA, Table 1; heads of 128 as there, smaller ones in models too narrow for four of them (our choice).
    """
    if d_model < 32 or d_model % 32:
        nearest = max(32, round(d_model / 32) * 32)
        raise ValueError(f"d_model = {d_model}; a width in proportion is a multiple of 32; nearest: {nearest}")
    sizes = (size for size in (128, 64, 32, 16, 8) if d_model % (size * QUERIES_PER_KEY) == 0)
    n_heads = d_model // next(sizes)
    return {
        "vocab_size": vocab_size,
        "d_model": d_model,
        "n_layers": max(MIN_LAYERS, round(d_model / WIDTH_PER_LAYER)),
        "n_heads": n_heads,
        "n_kv_heads": n_heads // QUERIES_PER_KEY,
        "d_ffn": round(FFN_PER_WIDTH * d_model),
        "max_length": length,
        "is_tied": True,
        "rope_theta": 10_000.0 if length <= 2048 else 500_000.0,
        "norm_eps": 1e-6,
        "has_qk_norm": has_qk_norm,
    }


def ladder(
    specs: Mapping[str, ModelSpec],
    *,
    flops: Sequence[float],
    length: int,
    device: Device,
    precision: str,
    mfu: int | float,
) -> list[Rung]:
    """How many tokens each size may read at each budget, and how long that takes.

    Args:
        specs: sizes by name.
        flops: budgets; every size gets all of each.
        length: tokens per row.
        device: whose hours are counted.
        precision: Lightning's name, "32-true" or "bf16-mixed".
        mfu: assumed model FLOPs utilisation, above 0, at most 1.

    Returns:
        Rows, budget by budget, in the order of `specs`. At every budget `tokens` x FLOPs per token is the budget exactly.

    Raises:
        ValueError: a budget or an MFU that is not positive.

    Source: iso-FLOP comparison as in LLaDA (arXiv 2502.09992, section 3.1: 1e20 to 1e23); FLOPs per token with attention and head
        (`flops_per_token`), because 6 N D alone is wrong by half at toy size.
    """
    for name, value in {"mfu": mfu, **{f"flops[{i}]": value for i, value in enumerate(flops)}}.items():
        if value <= 0:
            raise ValueError(f"{name} = {value}; must be positive; for example {0.4 if name == 'mfu' else 1e20:g}")
    seconds_per_flop = 1 / (device.peak_flops(precision) * mfu)
    rows = []
    for budget in flops:
        for name, spec in specs.items():
            tokens, n = budget / flops_per_token(spec, length).total, spec.n_non_embedding_parameters
            hours = budget * seconds_per_flop / 3600
            rows.append(Rung(name, PLANNED, spec.n_parameters, n, tokens, budget, tokens / n, device.name, hours))
    return rows
