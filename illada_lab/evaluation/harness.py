"""lm-evaluation-harness: the model `illada_lab`, for upstream task names and for the shipped tasks that take a local file.

    python -m illada_lab.evaluation.harness run --model illada_lab --model_args checkpoint=runs/pretrain-small --tasks hellaswag

The words behind the module's name are lm-eval's own command line; its --seed is the model's as well, where --model_args names none.
Importing this module registers the model.
"""

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]

from illada_lab.evaluation.answerer import Answerer
from illada_lab.evaluation.upstream import share
from illada_lab.interop import is_published, scores_with_eos
from illada_lab.manifest import manifest
from illada_lab.processes import join, n_processes, rank, sent_to_first, wait, waiting_for_others
from illada_lab.tokens import has_bos_of
from illada_lab.training.checkpoint import LoadedRun, load_run

# Answers generated together where lm-eval leaves their number to the model. Our choice.
AUTO_BATCH = 8
# Requests after which lm-eval's record of answers is written: a broken-off run goes on behind it. Our choice.
N_SCORED, N_ANSWERED = 1024, 64


@register_model("illada_lab")
class IlladaLab(LM):
    """A trained model as lm-eval sees it; of several processes (`processes.join`) lm-eval gives each some of the questions.

    Args:
        checkpoint: checkpoint file or folder of a run.
        device: where it computes; None: where the model is, which is the host's memory for one that is read here.
        batch_size: answers generated together; auto, or lm-eval's auto:N: 8.
        max_batch_size: not used: scoring batches by tokens.
        loaded: the model of that checkpoint, if it is in memory already.
        settings: see `Answerer`; has_bos and has_eos as the run was trained, or as a published model's family has them in its own code.

    Raises:
        ValueError: a batch size that is none, or settings that `Answerer` refuses; also as `load_run`.
        FileNotFoundError: as `load_run`.
    """

    def __init__(
        self,
        checkpoint: str,
        device: str | None = None,
        batch_size: int | str = AUTO_BATCH,
        max_batch_size: int | None = None,
        loaded: LoadedRun | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self._rank, self._world_size = rank(), n_processes()
        size = _batch_size(batch_size)
        loaded = loaded or load_run(checkpoint)
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            # lm-eval's command line names cuda:0 unless told otherwise.
            print(f"device = {device}; there is none here; cpu", file=sys.stderr)
            device = "cpu"
        if n_processes() > 1 and device == "cuda:0":
            device = "cuda"  # each has its own
        predictor = loaded.predictor if device is None else loaded.predictor.to(device)
        settings.setdefault("scoring", "chain_rule" if predictor.spec.is_causal else "confidence")
        settings.setdefault("has_bos", has_bos_of(loaded.config["data"]))
        if not predictor.spec.is_causal and is_published(loaded.path):
            settings.setdefault("has_eos", scores_with_eos(loaded.path))
        self.loaded, self.checkpoint = loaded, str(checkpoint)
        # Hears of every answer, and of the seconds that some took.
        self.on_answers: Callable[[list[dict[str, Any]], float], None] | None = None
        self.answerer = Answerer(predictor=predictor, tokenizer=loaded.tokenizer, batch_size=size, **settings)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score and whether the greedy answer is the continuation, of every request; many of them share the passes."""
        several = {request.task_name for request in requests if request.idx}
        is_alone = [request.task_name not in several for request in requests]
        if any(is_alone) and self.answerer.has_greedy is None and self.answerer.scoring == "confidence":
            print(
                "scoring = confidence; no likelihood, so no perplexity can be made of it; monte_carlo", file=sys.stderr
            )

        def ask(arguments: Sequence[tuple], flags: Sequence[bool]) -> list[tuple[float, bool]]:
            return self.answerer.log_likelihoods(arguments, flags)

        return self._kept("loglikelihood", requests, is_alone, ask, N_SCORED)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """log p of whole texts, nats."""
        # Where lm-eval is called directly, nobody has said so before.
        self.answerer.ends_texts |= bool(self.answerer.has_eos)

        def ask(arguments: Sequence[tuple], _: Sequence[None]) -> list[float]:
            return self.answerer.rolling_log_likelihoods([text for (text,) in arguments])

        return self._kept("loglikelihood_rolling", requests, [None] * len(requests), ask, N_ANSWERED)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers up to their end or a stop string; those of a request that is there several times (a task's `repeats`) differ if drawn."""
        seen: Counter[str] = Counter()
        about = []
        for request in requests:
            # Of one question only: another of the same words may be another process's.
            place = f"{request.task_name}/{request.doc_id}/{request.idx}"
            key = f"{place} {request.args!r}"
            about.append((f"{place}/{seen[key]}", seen[key]))
            seen[key] += 1

        def ask(arguments: Sequence[tuple], about: Sequence[tuple[str, int]]) -> list[str]:
            begin = time.perf_counter()
            times = [n_before for _, n_before in about]
            found = self.answerer.written([(context, dict(options)) for context, options in arguments], times)
            if self.on_answers is not None:
                told = ("text", "stop_reason", "n_tokens", "nfe")
                records = [
                    {"key": key, **{name: getattr(g, name) for name in told}}
                    for (key, _), g in zip(about, found, strict=True)
                ]
                self.on_answers(records, time.perf_counter() - begin)
            return [g.text for g in found]

        return self._kept("generate_until", requests, about, ask, N_ANSWERED)

    @property
    def device(self) -> torch.device:
        """Where lm-eval is to keep the counts that its processes exchange: in the host's memory."""
        return torch.device("cpu")

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """This process's count once for each process.

        lm-eval gathers nothing else this way, to fill up those with fewer requests, for models whose processes must take equally many
        passes. Ours need not, and fillings would count as further answers to the last question.
        """
        return tensor.repeat(self.world_size)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """An object of every process, for the first; None in the others."""
        return sent_to_first(obj)

    def barrier(self) -> None:
        """Until all processes have come so far."""
        wait()

    def _kept(
        self, kind: str, requests: list[Any], about: Sequence[Any], ask: Callable[[Any, Any], list[Any]], n: int
    ) -> list[Any]:
        """Ask some requests at a time, each with what `about` says of it, and give each answer to lm-eval's record as it comes."""
        found: list[Any] = []
        for start in range(0, len(requests), n):
            part = [request.args for request in requests[start : start + n]]
            for arguments, answer in zip(part, ask(part, about[start : start + n]), strict=True):
                self.cache_hook.add_partial(kind, arguments, answer)
                found.append(answer)
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

        Args:
            chat_history: the turns.
            add_generation_prompt: false: the last turn is the beginning of the answer (a task's `gen_prefix`).

        Raises:
            ValueError: an answer that begins with no words of the assistant's.
        """
        if add_generation_prompt:
            return self.answerer.chat(chat_history)
        if not chat_history or chat_history[-1]["role"] != "assistant":
            raise ValueError(
                "add_generation_prompt = false; the last turn is not the beginning of an answer; true, or the assistant's words"
            )
        return self.answerer.chat(chat_history[:-1]) + chat_history[-1]["content"]

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results about the model: everything a score depends on."""
        told = {
            key: getattr(self.answerer, key)
            for key in Answerer.__dataclass_fields__
            if key not in ("predictor", "tokenizer")
        }
        about = manifest(seed=self.answerer.seed, scale=self.loaded.config["scale"]["name"])
        weight = self.answerer.predictor.head_weight
        where = {"dtype": str(weight.dtype).removeprefix("torch."), "device": str(weight.device)}
        return {**about, **told, "checkpoint": self.checkpoint, "step": self.loaded.step, **where}


def _batch_size(value: int | str) -> int:
    """Answers generated together, of what lm-eval's command line takes: a number, "auto", or "auto:N" (found out anew N times)."""
    if re.fullmatch(r"auto(:\d+)?", str(value)):
        return AUTO_BATCH
    if not re.fullmatch(r"0*[1-9]\d*", str(value)):
        raise ValueError(f"batch_size = {value}; not a number of answers; a whole number from 1, or auto")
    return int(value)


def telling(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """lm-eval's `simple_evaluate` as its command line calls it, but that the model hears of the tasks and of the seed.

    Args:
        evaluate: lm-eval's.

    Returns:
        The same for all other models.
    """

    def told(*, model: Any, model_args: Any, task_manager: Any, **settings: Any) -> Any:
        if model != "illada_lab":
            return evaluate(model=model, model_args=model_args, task_manager=task_manager, **settings)
        own = {
            "seed": settings.get("torch_random_seed"),
            **{key: settings.get(key) for key in ("batch_size", "max_batch_size", "device")},
        }
        lm = IlladaLab(**{**{key: value for key, value in own.items() if value is not None}, **model_args})
        load = task_manager.load

        def checked(tasks: Any) -> Any:
            found = load(tasks)
            for name, task in found["tasks"].items():
                share(task)
                lm.answerer.expect(name, task.get_config("output_type"), list(task.aggregation()))
            return found

        task_manager.load = checked
        return evaluate(model=lm, model_args=model_args, task_manager=task_manager, **settings)

    return told


def main() -> None:
    """lm-eval's command line."""
    import lm_eval  # pyright: ignore[reportMissingImports]
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    join()
    lm_eval.simple_evaluate = telling(lm_eval.simple_evaluate)
    with waiting_for_others("the same command again; answers are kept with --use_cache only"):
        cli_evaluate()


if __name__ == "__main__":
    main()
