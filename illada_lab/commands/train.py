"""`illada-lab train`: one stage of training."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

# Settings that training reads; the others belong to other commands.
USED = ("scale", "experiment", "model", "tokenizer", "data", "objective", "optim", "lr", "trainer", "logger", "lora", "seed", "name",
        "run_dir", "init_from", "resume")  # fmt: skip
INSTEAD = {"checkpoint": "init_from={value} starts from its weights, resume={value} goes on with its run",
           "device": "of plan; where a run computes is trainer.accelerator"}  # fmt: skip


def translate(overrides: Sequence[str]) -> list[str]:
    """The overrides as they are; raises ValueError for those without effect."""
    from illada_lab.commands.effect import refuse_without_effect

    return refuse_without_effect("train", overrides, USED, INSTEAD)


def run(config: DictConfig) -> int:
    """Train and say where the checkpoint is and how good it is."""
    measured(config)
    return 0


def measured(config: DictConfig) -> list[dict[str, Any]]:
    """The same; returns the last bounds, as rows of a table. Of several processes of a run the one that writes speaks."""
    from lightning.pytorch.utilities import rank_zero_only

    from illada_lab.report.tables import bound_line, bound_row, bound_warnings
    from illada_lab.training.allocator import keep_freed_memory
    from illada_lab.training.checkpoint import BEST, read_about
    from illada_lab.training.run import train

    keep_freed_memory()  # here and not in `train`: a notebook or a test goes on to other things and wants its memory back
    done = train(config)
    kinds = done.history["validation"][-1]["kinds"] if done.history["validation"] else {}
    lines = [
        bound_line(kind, row, row.get("entropy_per_token"))
        for kind, row in kinds.items()
        if kind != "all" or len(kinds) != 2  # of one kind it is the same
    ]
    bounds = [{"step": record["step"], **record["kinds"]["all"]} for record in done.history["validation"]]
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        kept = [f"checkpoint: {done.checkpoint}"]
        best = done.checkpoint.with_name(BEST)
        if config.trainer.get("keeps_best") and best.exists():
            kept.append(f"best: {best}, of step {read_about(best)['global_step']:,}")
        print(*lines, *bound_warnings(bounds, done.history["landmarks"]), *kept, sep="\n")
    return [bound_row(kind, row) for kind, row in kinds.items()]
