"""Running a benchmark: answers written one by one, so that a broken-off run goes on, and a result that says how it came about."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from illada_lab.data.chat import ChatTemplate
from illada_lab.data.tokenizer import Tokenizer
from illada_lab.evaluation.autoregressive import Greedy
from illada_lab.evaluation.benchmarks import Benchmark, Item
from illada_lab.evaluation.folder import claim_folder
from illada_lab.evaluation.generation import Generated, generate, seed_of, steps_told
from illada_lab.evaluation.health import health
from illada_lab.evaluation.intervals import share_interval
from illada_lab.evaluation.journal import Journal, Records
from illada_lab.files import write_text
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.processes import n_processes, rank, sent_to_first
from illada_lab.samplers import EndOfThinking
from illada_lab.samplers.confidence import rule_told
from illada_lab.samplers.room import cut_budgets
from illada_lab.tokens import SpecialTokens

ITEMS, RESULTS = "items.jsonl", "results.json"
# Settings that are told and may be others when a run goes on.
OF_THE_MACHINE = ("batch_size", "n_workers")


def run_benchmark(
    benchmark: Benchmark,
    predictor: MaskPredictor,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    model: dict[str, Any],
    about: dict[str, Any],
    has_bos: bool | None = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Answer all items that `folder` does not hold yet, and sum up; of several processes (`processes.join`) each answers some of them.

    Args:
        benchmark: questions and settings.
        predictor: the model; an autoregressive one answers greedily.
        tokenizer: its tokenizer.
        folder: `items.jsonl` (one item a line), `settings.json`, `results.json`; made where it is not there.
        model: what tells this model from others (checkpoint, step); a folder is for one model and one set of settings.
        about: manifest of the run (see `illada_lab.manifest`); what the score depends on is added to it.
        has_bos: whether the model was trained on documents with BOS; None: nothing stands in front of a prompt.
        seed: of draws and of the interval.

    Returns:
        manifest, rows (as the other suites have them) and health panel: what `results.json` holds; the panel is whole in the first process.

    Raises:
        ValueError: a malformed file, a prompt longer than the context, a folder that holds another run.
    """
    begin, folder = time.perf_counter(), Path(folder)
    items = benchmark.items()
    sampler = sampler_of(benchmark, predictor, tokenizer)
    prompts = _prompts(benchmark, items, tokenizer, sampler, predictor.spec.max_length, has_bos)
    told = {**told_of(benchmark, sampler, predictor), "has_bos": has_bos}
    # Not what no answer depends on: a run that memory was too small for goes on with a smaller batch, a busy machine's with fewer programs.
    claim_folder(folder, {"model": model, "seed": seed, **{k: v for k, v in told.items() if k not in OF_THE_MACHINE}})
    # Similar lengths share a batch; the batches are the same whenever the run was broken off.
    order = sorted(range(len(items)), key=lambda i: len(prompts[i]))
    batches = [order[i : i + benchmark.batch_size] for i in range(0, len(order), benchmark.batch_size)]
    journal, seconds, traces = Journal(folder / ITEMS), 0.0, {}

    def answer(batch: Sequence[int]) -> Records:
        nonlocal seconds
        written, took = generate(
            predictor, tokenizer, [prompts[i] for i in batch], sampler, batch_size=len(batch),
            seeds=[seed_of(seed, items[i].key) for i in batch],
        )  # fmt: skip
        seconds += took
        traces.update({items[i].key: g.trace for i, g in zip(batch, written, strict=True)})
        return _judge(benchmark, [items[i] for i in batch], written)

    records = journal.answered([([items[i].key for i in batch], partial(answer, batch)) for batch in batches])
    if (parts := sent_to_first((traces, seconds))) is not None:
        # Those of the slowest, for the others waited.
        traces, seconds = {key: trace for own, _ in parts for key, trace in own.items()}, max(took for _, took in parts)
    results = {
        "manifest": {**about, "seed": seed, "model": model, **told, **_room(sampler, predictor, prompts), "n_items": len(records),
                     "n_items_of_this_call": journal.n_new, "n_processes": n_processes(), "seconds": time.perf_counter() - begin},
        "rows": rows_of(benchmark, records, seed),
        "health": _health(records, traces, seconds, predictor.tokens),
    }  # fmt: skip
    if rank() == 0:
        write_text(folder / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return results


def sampler_of(benchmark: Benchmark, predictor: MaskPredictor, tokenizer: Tokenizer) -> Any:
    """How the model answers: the benchmark's sampler, or greedily with the same budget where the model is autoregressive."""
    sampler = benchmark.sampler
    if predictor.spec.is_causal:
        return Greedy(max_length=sampler.budget, stop_strings=tuple(sampler.stop_strings), tokenizer=tokenizer)
    if benchmark.thinking_power is not None:
        push = EndOfThinking(sequence=tokenizer.encode_marker("</think>"), power=benchmark.thinking_power)
        sampler = replace(sampler, end_of_thinking=push)
    return replace(sampler, tokenizer=tokenizer) if sampler.stop_strings else sampler


def told_of(benchmark: Benchmark, sampler: Any, predictor: MaskPredictor) -> dict[str, Any]:
    """What a score depends on beside the model."""
    settings = _plain(sampler)
    return {
        "task": benchmark.name,
        "path": benchmark.path,
        **benchmark.settings(),
        **({"thinking_power": None} if predictor.spec.is_causal else {}),
        "sampler": {"_target_": f"{type(sampler).__module__}.{type(sampler).__qualname__}", **settings},
        "steps_per_block": steps_told(sampler),
        "block_length": settings.get("block_length"),
        "max_length": sampler.budget,
        "temperature": settings.get("temperature", 0.0),
        "dtype": str(predictor.head_weight.dtype).removeprefix("torch."),
        "batch_size": benchmark.batch_size,
    }


def room_told(cut: Sequence[int], n_prompts_cut: int = 0) -> dict[str, int]:
    """How many answers had less room than configured, and the smallest budget, tokens; how many prompts; nothing where none had.

    Args:
        cut: budgets of those answers (`samplers.room.cut_budgets`).
        n_prompts_cut: prompts that lost their beginning.
    """
    told = {"n_short_of_room": len(cut), "smallest_budget": min(cut)} if cut else {}
    return {**told, "n_prompts_cut": n_prompts_cut} if n_prompts_cut else told


def _room(sampler: Any, predictor: MaskPredictor, prompts: Sequence[Sequence[int]]) -> dict[str, int]:
    return room_told(cut_budgets(predictor, map(len, prompts), wanted=sampler.budget, unit=sampler.unit))


def rows_of(benchmark: Benchmark, records: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The share of right answers with its interval: of everything, and of each group where there are several."""
    groups = [group for group in dict.fromkeys(record["group"] for record in records) if group]
    name, parts = benchmark.name, [(benchmark.name, records)]
    if len(groups) > 1:
        parts += [(f"{name}: {group}", [r for r in records if r["group"] == group]) for group in sorted(groups)]
    rows = []
    for task, own in parts:
        is_correct = [record["is_correct"] for record in own]
        low, high = share_interval(is_correct, seed=seed)
        rows.append(
            {"task": task, "metric": benchmark.metric,
             "value": sum(is_correct) / len(is_correct), "ci_low": low, "ci_high": high, "n": len(is_correct),
             "chance": None, "target": None, "note": "interval by bootstrap; Wilson's where all items agree"}
        )  # fmt: skip
    return rows


def _prompts(
    benchmark: Benchmark, items: Sequence[Item], tokenizer: Tokenizer, sampler: Any, limit: int, has_bos: bool | None
) -> list[list[int]]:
    """Token ids of every prompt, all of them checked before the first is answered."""
    chat = ChatTemplate(tokenizer) if benchmark.is_chat else None
    found = []
    for item in items:
        text = benchmark.prompt(item)
        if chat is not None:
            ids = chat.prompt([{"role": "user", "content": text}])
        else:
            ids = tokenizer.tokens.opened(tokenizer.encode_prompt(text), has_bos)
        if len(ids) + sampler.unit > limit:
            shots = f"fewer evaluation.n_shots ({benchmark.n_shots}), " if benchmark.n_shots else ""
            raise ValueError(
                f"prompt of {item.key} = {len(ids)} tokens; with the {sampler.unit} that are written at once longer than the model's "
                f"context of {limit}; {shots}a smaller evaluation.sampler, or a model with more context"
            )
        found.append(ids)
    return found


def _judge(benchmark: Benchmark, items: Sequence[Item], written: Sequence[Generated]) -> list[dict[str, Any]]:
    judged = benchmark.judge(items, [g.text for g in written])
    return [
        {"key": item.key, "group": item.group, "text": g.text, "answer": j.answer, "gold": item.gold,
         "is_correct": j.is_correct, "note": j.note, "stop_reason": g.stop_reason, "n_tokens": g.n_tokens, "nfe": g.nfe}
        for item, g, j in zip(items, written, judged, strict=True)
    ]  # fmt: skip


def _health(
    records: Records, traces: dict[str, list[dict[str, Any]]], seconds: float, tokens: SpecialTokens
) -> list[dict[str, Any]]:
    """The panel of all answers; of those that an earlier call has written neither the traces nor the seconds are known."""
    written = [
        Generated(r["text"], r["stop_reason"], r["nfe"], r["n_tokens"], traces.get(r["key"], [])) for r in records
    ]
    rows = health(written, seconds, tokens)
    return [row for row in rows if row["name"] != "tokens per second" or len(traces) == len(records)]


def _plain(sampler: Any) -> dict[str, Any]:
    """A sampler's settings as plain data; parts by their class and settings, one's own by dotted path; the tokenizer left out."""
    found: dict[str, Any] = {}
    for key in [field.name for field in fields(sampler) if field.name != "tokenizer"]:
        value = getattr(sampler, key)
        is_part = hasattr(value, "__dataclass_fields__") and type(value).__module__.startswith("illada_lab.")
        if is_part:
            found[key] = {"_target_": type(value).__qualname__, **asdict(value)}
        else:
            found[key] = rule_told(value) if callable(value) else value
    return found
