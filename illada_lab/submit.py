"""`python -m illada_lab.submit`: training runs as jobs of a cluster, through a launcher of Hydra.

    python -m illada_lab.submit -m hydra/launcher=slurm scale=8b trainer=fsdp trainer.devices=8 trainer.n_nodes=8 seed=0,1

The other commands compose their configuration themselves; Hydra's launchers need Hydra's own way in. Same settings, same checks.
"""

from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from illada_lab.config import check, conf_dir


@hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")
def main(config: DictConfig) -> float:
    """Train; returns the last validation loss, which sweepers minimise.

    A run goes on from its last checkpoint if there is one: a job that is queued again is the same run. Runs of a sweep have the
    job's number behind their folder.

    Raises:
        ConfigError: a setting that cannot be used; then nothing has started.
    """
    from illada_lab.training.run import train

    check(config)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        config.run_dir = f"{config.run_dir}/{HydraConfig.get().job.num}"
    config.resume = config.resume or "auto"
    return last_validation(train(config).history["validation"])


def last_validation(records: Sequence[dict]) -> float:
    """Bound of the last validation in nats per token; NaN where there was none."""
    return records[-1]["kinds"]["all"]["nelbo_per_token"] if records else float("nan")


if __name__ == "__main__":
    main()
