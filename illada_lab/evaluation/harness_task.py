"""A benchmark that lm-eval knows, with the paper's settings: one YAML each in `conf/evaluation/`."""

import hashlib
import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from illada_lab.evaluation.folder import claim_folder
from illada_lab.evaluation.generation import Generated
from illada_lab.evaluation.health import health
from illada_lab.evaluation.journal import Notes
from illada_lab.evaluation.options import drawing
from illada_lab.evaluation.run import ITEMS, RESULTS, room_told
from illada_lab.files import write_text
from illada_lab.processes import n_processes
from illada_lab.tokens import SpecialTokens
from illada_lab.training.checkpoint import LoadedRun

# Settings that play no part where a model is scored by the chain rule and answers greedily.
MASKED_ONLY = ("scoring", "n_samples", "has_eos", "block_length", "thinking_power")
# Words in the names of metrics that count: shares, 0 to 1. All others (bits_per_byte, brier_score, perplexities) are numbers, whatever
# they come to. Source: the names in lm-eval's registry and tasks.
SHARES = {"acc", "accuracy", "em", "match", "f1", "pass", "precision", "recall", "verify"}


@dataclass(frozen=True, kw_only=True)
class HarnessTask:
    """A task of lm-eval and how a model is asked; needs the extra `eval`.

    Args:
        name: of the task here; results are kept under it.
        task: upstream name, or a shipped one (`illada_lab/evaluation/tasks`) together with `path`.
        path: local data: the file of a shipped task, or a folder with the JSONL files of an upstream one's splits; null: the data is
            where upstream looks for it.
        n_shots: examples in front of a question.
        is_chat: ask through the chat format of the model; examples are earlier turns.
        scoring: confidence or monte_carlo, of tasks that score candidates; null: the task generates answers.
        n_samples: mask sets per candidate (monte_carlo).
        has_eos: EOS stands behind a candidate, or behind a whole text, visible, of tasks that score them.
        max_length, block_length: budget of an answer and its blocks, tokens, of tasks that generate; the budget replaces the task's own.
        thinking_power: of the growing push towards "</think>", of tasks that generate; null: none.
        n_items: the first so many questions only; null: all.
        batch_size: answers generated together.
        out: folder of the results; null: `evaluation/<name>` beside the checkpoint.

    Raises:
        ValueError: settings that have no effect, or a number out of range.
    """

    name: str
    task: str
    path: str | None = None
    n_shots: int = 0
    is_chat: bool = False
    scoring: str | None = None
    n_samples: int | None = None
    has_eos: bool | None = None
    max_length: int | None = None
    block_length: int | None = None
    thinking_power: float | None = None
    n_items: int | None = None
    batch_size: int = 8
    out: str | None = None

    def __post_init__(self) -> None:
        if self.scoring not in (None, "confidence", "monte_carlo"):
            raise ValueError(f"scoring = {self.scoring!r}; not a rule; confidence, monte_carlo, or null")
        rule = f"scoring = {'null' if self.scoring is None else self.scoring}"
        for key, has_effect, is_needed in (
            ("n_samples", self.scoring == "monte_carlo", True),
            ("has_eos", self.scoring is not None, True),
            ("max_length", self.scoring is None, True),
            ("block_length", self.scoring is None, True),
            ("thinking_power", self.scoring is None, False),
        ):
            value = getattr(self, key)
            if value is not None and not has_effect:
                raise ValueError(f"{key} = {value}; has no effect with {rule}; null")
            if value is None and has_effect and is_needed:
                raise ValueError(f"{key} = null; a score with {rule} depends on it; a value")
        if self.max_length is not None and self.block_length is not None and self.max_length < self.block_length:
            raise ValueError(
                f"max_length = {self.max_length}; less than one block of {self.block_length}; {self.block_length} or more"
            )
        for key in ("n_shots", "n_items", "batch_size", "n_samples", "max_length", "block_length"):
            value, least = getattr(self, key), 0 if key == "n_shots" else 1
            if value is not None and value < least:
                raise ValueError(f"{key} = {value}; too few; {least} or more")
        if self.thinking_power is not None and self.thinking_power < 0:
            raise ValueError(f"thinking_power = {self.thinking_power}; cannot be negative; 3 as published, or null")

    def run(
        self,
        checkpoint: str,
        loaded: LoadedRun,
        folder: Path,
        *,
        seed: int,
        about: dict[str, Any],
        is_twin: bool = False,
    ) -> dict[str, Any]:
        """Ask everything, or what an earlier call in this folder has not asked, and sum up; several processes (`processes.join`) share it.

        Args:
            checkpoint: the model, as it was asked for.
            loaded: the same in memory, on the device where it is to compute.
            folder: of the results; lm-eval's own record of answers (`asked_*.db`) is kept there too, and answers in `items.jsonl`.
            seed: of masks and draws.
            about: manifest of the run.
            is_twin: an autoregressive model: candidates are scored by the chain rule.

        Returns:
            What `results.json` holds: manifest, rows, health panel and lm-eval's own results; of several processes only the first has rows.

        Raises:
            ModuleNotFoundError: lm-eval is not installed.
            ValueError: the folder holds another run.
        """
        import lm_eval  # pyright: ignore[reportMissingImports]

        from illada_lab.evaluation.harness import IlladaLab
        from illada_lab.evaluation.upstream import CheckedTasks, local_task

        begin = time.perf_counter()
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("out", "batch_size")}
        # A file that has changed is another benchmark.
        data = {"sha256": self._digests()} if self.path else {}
        claim_folder(
            folder, {**settings, "checkpoint": checkpoint, "weights": about.get("weights"), "seed": seed, **data}
        )
        notes = Notes(folder / ITEMS)
        keys = ("max_length",) if is_twin else (*MASKED_ONLY, "max_length")
        asked = {key: settings[key] for key in keys}
        model = IlladaLab(
            checkpoint, loaded=loaded, batch_size=self.batch_size, seed=seed,
            **{key: value for key, value in asked.items() if value is not None},
        )  # fmt: skip
        model.on_answers = notes.add
        try:
            found = lm_eval.simple_evaluate(
                model=model, task_manager=CheckedTasks(n_shots=self.n_shots, scoring=self.scoring, answerer=model.answerer),
                tasks=[local_task(self.task, self.path) if self.path else self.task],
                num_fewshot=self.n_shots, limit=self.n_items, apply_chat_template=self.is_chat,
                fewshot_as_multiturn=self.is_chat and self.n_shots > 0, use_cache=str(folder / "asked"),
                # Upstream tasks name budgets of their own (MMLU-Pro 2048), which would go before this one.
                gen_kwargs=None if self.max_length is None else {"max_gen_toks": self.max_length},
                random_seed=seed, numpy_random_seed=seed, torch_random_seed=seed, fewshot_random_seed=seed,
            )  # fmt: skip
        except UndefinedError as error:
            raise ValueError(
                f"path = {self.path}; an item without what {self.task} asks for ({error}); lines as in the task's own data"
            ) from error
        notes.gather()
        if found is None:  # to all but the first of several processes
            notes.write()
            return {"manifest": {}, "rows": []}
        n_items = sum(n["effective"] for n in found["n-samples"].values())
        _judged(notes, found)
        room = room_told(model.answerer.cut_budgets(_generated(found)), model.answerer.n_cut(_asked(found)))
        told = {**told_of(settings, model.get_model_info(), is_twin=is_twin), **about, **room, "n_items": n_items,
                "temperature": _temperature(found), "steps_per_block": None if is_twin else self.block_length,
                "lm_eval": lm_eval.__version__, "task_versions": found["versions"], **data, "n_processes": n_processes(),
                "seconds": time.perf_counter() - begin}  # fmt: skip
        panel = _health(notes, loaded.predictor.tokens)
        rows = rows_of(found, tells_length=model.answerer.ends_texts)
        results = {"manifest": told, "rows": rows, "health": panel, "lm_eval": found["results"]}
        text = json.dumps(results, indent=1, ensure_ascii=False, default=str)
        write_text(folder / RESULTS, text + "\n")
        return results

    def _digests(self) -> dict[str, str]:
        """Digest of each file of local data; of nothing where there is none."""
        path = Path(str(self.path))
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files}


def _judged(notes: Notes, found: dict[str, Any]) -> None:
    """Write what lm-eval makes of each answer beside it: its target, and the value of each metric."""
    answers: dict[str, list[dict[str, Any]]] = {}
    for key, record in notes.found.items():
        answers.setdefault(key.rsplit("/", 2)[0], []).append(
            record
        )  # without number of the request and of the repetition
    for task, samples in found.get("samples", {}).items():
        for sample in samples:
            values = {
                f"{metric}, {sample['filter']}": sample[metric] for metric in sample["metrics"] if metric in sample
            }
            for record in answers.get(f"{task}/{sample['doc_id']}", []):
                record |= json.loads(json.dumps({"target": sample["target"], **values}, default=str))
    notes.write()


def _health(notes: Notes, tokens: SpecialTokens) -> list[dict[str, Any]]:
    """The panel of all answers, without what a trace tells: none is kept; their speed only where this call wrote all of them."""
    written = [Generated(r["text"], r["stop_reason"], r["nfe"], r["n_tokens"], []) for r in notes.found.values()]
    rows = health(written, notes.seconds, tokens) if written else []
    untold = {"EOS by position", "EOS by step", *(["tokens per second"] if notes.n_taken else [])}
    return [row for row in rows if row["name"] not in untold]


def told_of(settings: dict[str, Any], model: dict[str, Any], *, is_twin: bool) -> dict[str, Any]:
    """What a result says of its settings: as the task gives them, so that null means "no part in this score".

    Args:
        settings: of the task.
        model: what the model says of itself, with a default for each setting that the task leaves out.
        is_twin: an autoregressive model, whose rule is its own and which has no use for some of them.
    """
    own = {key: None for key in MASKED_ONLY} if is_twin else {}
    if is_twin and settings["scoring"] is not None:
        own["scoring"] = model["scoring"]
    return {**model, **settings, **own}


def _generated(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Context and options of every answer that lm-eval's result tells of, those of earlier calls as well."""
    return ((context, asked) for context, asked in _asked(found) if isinstance(asked, dict))


def _asked(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Context and candidate, or context and options, of all that lm-eval's result tells of but texts that are scored as a whole."""
    for samples in found.get("samples", {}).values():
        for sample in samples:
            for arguments in sample["arguments"]:
                # A text that is scored as a whole comes alone, a candidate with text behind it.
                if len(arguments) == 2 and isinstance(arguments[1], dict | str):
                    yield tuple(arguments)


def _temperature(found: dict[str, Any]) -> float | list[float]:
    """At which the answers of lm-eval's result were drawn, as their tasks say; 0.0 where nothing was; of several tasks each once."""
    told = sorted({drawing(options)[0] for _, options in _generated(found)})
    return told if len(told) > 1 else (told or [0.0])[0]


def rows_of(found: dict[str, Any], *, tells_length: bool = False) -> list[dict[str, Any]]:
    """Every metric of lm-eval's result with its standard error, as rows of the other suites.

    Args:
        found: the result.
        tells_length: EOS stood behind whole texts, so that their numbers are those of texts of known length.
    """
    rows = []
    for task, values in found["results"].items():
        kind = found.get("configs", {}).get(task, {}).get("output_type")
        is_given = tells_length and kind == "loglikelihood_rolling"
        note = f"lm-eval's standard error, times 1.96{'; given the length, which EOS tells' if is_given else ''}"
        for key, value in values.items():
            metric, _, rule = key.partition(",")
            if not isinstance(value, int | float) or "_stderr" in metric or not rule:
                continue
            error = values.get(f"{metric}_stderr,{rule}")
            error = error if isinstance(error, int | float) else None
            is_share = not SHARES.isdisjoint(re.split(r"[^a-z0-9]+", metric.lower())) and 0 <= value <= 1
            low, high = (-math.inf, math.inf) if not is_share else (0.0, 1.0)
            rows.append(
                {"task": task, "metric": metric if rule == "none" else f"{metric}, {rule}", "value": value,
                 "ci_low": None if error is None else max(low, value - 1.96 * error),
                 "ci_high": None if error is None else min(high, value + 1.96 * error),
                 "n": found["n-samples"].get(task, {}).get("effective"), "chance": None, "target": None,
                 "note": note, **({} if is_share else {"unit": ""})}
            )  # fmt: skip
    return rows
