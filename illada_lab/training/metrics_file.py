"""metrics.csv: one file for a run, however often it was broken off."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only


class MetricsFile(CSVLogger):
    """Lightning's CSVLogger, which deletes the file of an earlier run in its folder, without that.

    A run that goes on keeps the rows up to the step it goes on from; those behind it are measured again.

    Args:
        save_dir: folder of the run.
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__(save_dir, name="", version="")
        self._earlier: list[dict[str, Any]] = []

    @property
    def _aside(self) -> Path:
        """Where the earlier rows are while the file is written anew: a kill in between must not lose them."""
        return Path(self.log_dir) / f"{ExperimentWriter.NAME_METRICS_FILE}.earlier"

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """What writes; at its first use what stands in the file is put back into it."""
        is_new = self._experiment is None
        file = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        if is_new and file.is_file() and not self._aside.is_file():
            file.rename(self._aside)
        if is_new and self._aside.is_file():
            with self._aside.open(newline="") as lines:
                self._earlier = [{key: value for key, value in row.items() if value} for row in csv.DictReader(lines)]
        writer: ExperimentWriter = super().experiment
        if is_new and self._earlier:
            writer.metrics = list(self._earlier)
            writer.save()
        elif is_new:
            self._aside.unlink(missing_ok=True)
        return writer

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration stands in manifest.json, beside this file."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Keep a row; the first one tells from which step on earlier rows are void."""
        writer = self.experiment
        if self._earlier and step is not None:
            kept = [row for row in self._earlier if int(row["step"]) < step]
            self._earlier = []
            Path(writer.metrics_file_path).unlink()
            writer.metrics = kept
            writer.save()
            self._aside.unlink()
        super().log_metrics(metrics, step)
