"""Data sets of the Hugging Face hub: which part of one is meant, and how it is reached."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illada_lab.data.files import reason_of


@dataclass(frozen=True, kw_only=True)
class HubChoice:
    """What of a data set of the hub is meant.

    Args:
        split: to train on.
        validation_split: to validate on; None: some of `split` is held out.
        name: configuration of the data set.
        revision: commit, branch or tag.
    """

    split: str = "train"
    validation_split: str | None = None
    name: str | None = None
    revision: str | None = None

    def load(self, path: str, split: str, *, is_streaming: bool) -> tuple[Any, str | None]:
        """A split, and the commit that it is of where the hub told it.

        Args:
            path: owner/name.
            split: of the data set.
            is_streaming: read while training.

        Raises:
            FileNotFoundError: the hub cannot be reached.
            ValueError: there is no such data set, name, split or revision.
        """
        import datasets
        from huggingface_hub import HfApi, constants

        commit = None
        try:
            if not constants.HF_HUB_OFFLINE:
                # One quick question first: without a network the reader tries for half a minute.
                commit = HfApi().dataset_info(path, revision=self.revision, timeout=10).sha
            table = datasets.load_dataset(path, self.name, split=split, revision=self.revision, streaming=is_streaming)
            return table, commit
        except ValueError as error:  # a name, a split or a revision that does not exist
            raise ValueError(
                f"data.path = {path}; the hub refuses it ({reason_of(error)}); a data set, name and split that exist"
            ) from error
        except Exception as error:  # the hub client has no common error class
            raise FileNotFoundError(
                f"data.path = {path}; neither a local file nor reachable on the hub ({type(error).__name__}); "
                "a local path, a network, or HF_HUB_OFFLINE=1 for what was fetched before"
            ) from error

    def refuse_of_files(self, path: str) -> None:
        """Splits, configurations and revisions are the hub's: files that lie here, a test split's too, would all be trained on."""
        told = {
            "hub_validation_split": self.validation_split,
            "hub_split": None if self.split == "train" else self.split,
            "hub_name": self.name,
            "hub_revision": self.revision,
        }
        for key, value in told.items():
            if value is not None:
                usual = "train" if key == "hub_split" else "null"
                files = (
                    f"data.path={path}/train* and data.source.validation_path=..., and " if Path(path).is_dir() else ""
                )
                raise ValueError(
                    f"data.source.{key} = {value}; of data sets on the hub, and {path} lies here; {files}{key}={usual}"
                )
