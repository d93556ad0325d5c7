"""What a plan has to assume."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """Assumptions of a plan; each is printed with it.

    Args:
        mfu: model FLOPs utilisation: FLOPs of the model (recomputation not counted) over the device's peak.
        n_tokens: token budget; None: what the configured run reads.
        usable_share: share of a device's memory that a step may fill.

    Source: see conf/plan/assumed.yaml; `usable_share` is our choice.
    """

    mfu: int | float = 0.4
    n_tokens: int | float | None = None
    usable_share: int | float = 0.9

    @staticmethod
    def check_config(**values: Any) -> list[str]:
        """Problems of a set of arguments, for `illada_lab.config.check`."""
        shares = [key for key in ("mfu", "usable_share") if not 0 < values.get(key, 1) <= 1]
        found = [f"{key} = {values[key]}; a share; above 0, at most 1" for key in shares]
        n_tokens = values.get("n_tokens")
        if n_tokens is not None and n_tokens < 1:
            found.append(f"n_tokens = {n_tokens}; a number of tokens; 1 or more, for example 12e12")
        return found
