"""`python -m illada_lab.submit`: training runs as jobs of a cluster, through a launcher of Hydra.

    python -m illada_lab.submit -m hydra/launcher=slurm scale=8b trainer=fsdp trainer.devices=8 trainer.n_nodes=8 seed=0,1

The other commands compose their configuration themselves; Hydra's launchers need Hydra's own way in. Same settings, same checks.
"""

import os
import shlex
import zlib
from collections.abc import MutableMapping, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from illada_lab.config import check, conf_dir


@hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")
def main(config: DictConfig) -> float:
    """Train; returns the last validation loss, which sweepers minimise.

    A run goes on from its last checkpoint if there is one, otherwise from `resume`: a job that is queued again is the same run. Runs
    of a sweep have the job's number behind their folder and their name.

    Raises:
        ValueError: a setting that cannot be used, or that training does not read; then nothing has started.
    """
    from illada_lab.commands.train import translate
    from illada_lab.manifest import told_as_command
    from illada_lab.training.checkpoint import find_resumable
    from illada_lab.training.run import train

    translate(HydraConfig.get().overrides.task)
    check(config)
    tell_local_ranks(os.environ)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        number = HydraConfig.get().job.num
        config.run_dir, config.name = f"{config.run_dir}/{number}", f"{config.name}/{number}"
    saved = find_resumable(config.run_dir)
    if saved is not None and HydraConfig.get().mode == RunMode.MULTIRUN:
        _check_is_same(config, saved)
    if saved is not None or config.resume is None:
        config.resume = "auto"
    with told_as_command(command_of(HydraConfig.get().overrides.task, config)):
        return last_validation(train(config).history["validation"])


def command_of(overrides: Sequence[str], config: DictConfig) -> str:
    """What does a job's work where it is typed: a job's own command line is its launcher's.

    Args:
        overrides: the job's.
        config: of the job; its folder and name stand in the place of those that all jobs were told.
    """
    own = [word for word in overrides if word.partition("=")[0] not in ("run_dir", "name")]
    return shlex.join(["illada-lab", "train", *own, f"run_dir={config.run_dir}", f"name={config.name}"])


def _check_is_same(config: DictConfig, saved: Path) -> None:
    """Refuse to go on with what another sweep has left: Hydra numbers the jobs of each from 0. A longer run of the same goes on."""
    from illada_lab.training.recipe import MACHINE, differences, recipe, recipe_of

    for key, was, is_now in differences(recipe_of(saved) or {}, recipe(config)):
        if key not in MACHINE | {"trainer.max_steps", "lr.n_steps"} and not key.startswith("tokenizer"):
            raise ValueError(
                f"{key} = {is_now}; {config.run_dir} holds the job of this number of another sweep, with {was}; another run_dir=..., or "
                "delete that folder"
            )


def tell_local_ranks(environment: MutableMapping[str, str]) -> None:
    """What submitit's local executor calls its processes, in the words Lightning reads; without it each would be the first of its own run.

    Args:
        environment: of this process; changed where `hydra/launcher=here` has started several for one run. SLURM's words are
            Lightning's already.
    """
    if int(environment.get("SUBMITIT_LOCAL_NTASKS", "1")) < 2 or "LOCAL_RANK" in environment:
        return
    environment["LOCAL_RANK"] = environment["SUBMITIT_LOCAL_LOCALID"]
    environment["NODE_RANK"] = "0"
    environment["MASTER_ADDR"] = "127.0.0.1"
    # The same in all processes of a job, another one in the next job: its id is a number of a process.
    environment["MASTER_PORT"] = str(20_000 + zlib.crc32(environment["SUBMITIT_LOCAL_JOB_ID"].encode()) % 10_000)


def last_validation(records: Sequence[dict]) -> float:
    """Bound of the last validation in nats per token; NaN where there was none."""
    return records[-1]["kinds"]["all"]["nelbo_per_token"] if records else float("nan")


if __name__ == "__main__":
    main()
