"""Optional packages: which extra brings each, and what it adds."""

import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class Optional:
    """A package that the base install does without.

    Args:
        module: name to import.
        extra: extra of `illada_lab` that installs it; None: installed by its own name.
        adds: what it is for.
    """

    module: str
    extra: str | None
    adds: str

    @property
    def is_installed(self) -> bool:
        """Whether it can be imported; looks it up, imports nothing."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def how_to_install(self) -> str:
        """Command line, in the checkout."""
        return f"pip install -e '.[{self.extra}]'" if self.extra else f"pip install {self.module}"


OPTIONAL = (
    Optional("flash_attn", "gpu", "attention over segments of any length in one kernel (trainer.attention=flash)"),
    Optional("lm_eval", "eval", "the benchmarks of lm-eval"),
    Optional("transformers", "eval", "comparing exported models with its implementations (tests)"),
    Optional("peft", "lora", "lora=...: fine-tuning with adapters"),
    Optional("submitit", "slurm", "jobs of a SLURM cluster"),
    Optional("tensorboard", "tensorboard", "logger=tensorboard"),
    Optional("wandb", None, "logger=wandb"),
    Optional("jupyterlab", "notebooks", "the notebooks in a browser"),
    Optional("jupytext", "notebooks", "notebooks made from their sources"),
    Optional("papermill", "notebooks", "notebooks run at another scale"),
    Optional("pytest", "dev", "make test"),
)

# Targets of configurations that need an optional package as soon as they are built.
NEEDED_BY = {"WandbLogger": "wandb", "TensorBoardLogger": "tensorboard", "Lora": "peft"}


def how_to_install(module: str) -> str:
    """How to get a module that cannot be imported."""
    top = module.partition(".")[0]
    return next((o.how_to_install for o in OPTIONAL if o.module == top), f"pip install {top}")
