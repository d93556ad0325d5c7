"""lm-evaluation-harness: the model `illada_lab`, for upstream task names and for the shipped tasks that take a local file.

    python -m illada_lab.evaluation.harness run --model illada_lab --model_args checkpoint=runs/pretrain-small --tasks hellaswag

The words behind the module's name are lm-eval's own command line. Importing this module registers the model.
"""

import sys
from pathlib import Path
from typing import Any

import yaml
from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]

from illada_lab.evaluation.answerer import Answerer
from illada_lab.manifest import manifest
from illada_lab.training.checkpoint import load_run

TASKS = Path(__file__).with_name("tasks")


@register_model("illada_lab")
class IlladaLab(LM):
    """A trained model as lm-eval sees it.

    Args:
        checkpoint: checkpoint file or folder of a run.
        device: where it computes.
        batch_size: answers generated together.
        max_batch_size: not used: scoring batches by tokens.
        settings: see `Answerer`.
    """

    def __init__(
        self,
        checkpoint: str,
        device: str | None = None,
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        loaded = load_run(checkpoint)
        predictor = loaded.predictor.to(device or "cpu")
        settings.setdefault("scoring", "chain_rule" if predictor.spec.is_causal else "confidence")
        settings.setdefault("has_bos", bool(loaded.config["data"].get("adds_bos")))
        size = 8 if batch_size == "auto" else int(batch_size)
        self.loaded, self.checkpoint = loaded, str(checkpoint)
        self.answerer = Answerer(predictor=predictor, tokenizer=loaded.tokenizer, batch_size=size, **settings)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score and whether the greedy answer is the continuation, of every request; all of them share the passes."""
        found = self.answerer.log_likelihoods([request.args for request in requests])
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """log p of whole texts, nats."""
        found = self.answerer.rolling_log_likelihoods([request.args[0] for request in requests])
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers up to their end or a stop string."""
        found = self.answerer.answers([(request.args[0], dict(request.args[1])) for request in requests])
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, answer)
        return found

    @property
    def tokenizer_name(self) -> str:
        """Part of the names under which lm-eval keeps what it has asked."""
        return self.checkpoint.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Name of the chat format, for lm-eval's records; "" without."""
        if not chat_template:
            return ""
        return self.loaded.tokenizer.chat_template or "illada_lab: <bos> <user> question <assistant> answer <eos>"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the text of a request.

        Raises:
            ValueError: a conversation that goes on with the assistant's own words.
        """
        if not add_generation_prompt:
            raise ValueError("add_generation_prompt = false; answers begin where the assistant begins; true")
        return self.answerer.chat(chat_history)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results about the model: everything a score depends on."""
        told = {
            key: getattr(self.answerer, key)
            for key in Answerer.__dataclass_fields__
            if key not in ("predictor", "tokenizer", "_generator")
        }
        about = manifest(seed=self.answerer.seed, scale=self.loaded.config["scale"]["name"])
        dtype = str(self.answerer.predictor.head_weight.dtype).removeprefix("torch.")
        return {**about, **told, "checkpoint": self.checkpoint, "step": self.loaded.step, "dtype": dtype}


def local_task(name: str, path: str | Path) -> dict[str, Any]:
    """A shipped task on a local file, as lm-eval's `simple_evaluate(tasks=[...])` takes it.

    Args:
        name: file in `tasks/` without its ending.
        path: the data.

    Raises:
        ValueError: there is no such task.
        FileNotFoundError: there is no such file.
    """
    known = sorted(file.stem for file in TASKS.glob("*.yaml"))
    if name not in known:
        raise ValueError(f"task = {name}; not shipped; {', '.join(known)}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"path = {path}; there is no such file; the data of {name}")
    task = yaml.safe_load((TASKS / f"{name}.yaml").read_text(encoding="utf-8"))
    task["dataset_kwargs"]["data_files"] = {"test": str(Path(path).resolve())}
    return task


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    sys.exit(cli_evaluate())
