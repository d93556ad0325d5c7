"""Results that no run has produced: every part of the schema, with numbers made up for these tests."""

import math
import random
from typing import Any

STORY = [
    "anna",
    "has",
    "a",
    "red",
    "kite",
    ".",
    "the",
    "fox",
    "has",
    "a",
    "blue",
    "hat",
    ".",
    "anna",
    "gives",
    "the",
    "red",
    "kite",
    "to",
    "the",
    "fox",
    ".",
    "now",
    "the",
    "fox",
    "has",
    "a",
    "red",
    "kite",
    ".",
    "<eos>",
]
ENTROPY = {"all": 0.462, "story": 0.416, "fact": 0.602, "sum": 0.641}


def example_results() -> dict[str, Any]:
    """Every part of the schema; traces of fixed length, of growing blocks and of a token that is masked again."""
    draw = random.Random(0)
    return {
        "schema": 1,
        "manifest": {
            "command": "illada-lab reproduce scale=toy (TEST DATA, no run)",
            "commit": "0123456789ab+changes",
            "scale": "toy",
            "seed": 0,
            "seconds": 551.6,
            "date": "2000-01-01 00:00:00",
            "precision": "float32",
            "is_compiled": False,
            "machine": {"processor": "Test processor", "cores": 2, "threads": 2, "memory_gib": 7.8, "gpu": None},
            "versions": {"illada_lab": "0.0.0", "python": "3.11.0", "torch": "2.13.0"},
        },
        "config": {
            "pretrain": {
                "scale": {"name": "toy", "d_model": 128},
                "objective": {"_target_": "illada_lab.objectives.Pretrain"},
            },
            "sft": {"scale": {"name": "toy"}, "lr": {"peak": 1e-3, "minimum": None}},
        },
        "parameters": {"total": 1_052_928, "non_embedding": 1_010_432},
        "stages": [_stage("pretrain", 2400, 5.0, ENTROPY, draw), _stage("sft", 800, 1.4, {}, draw)],
        "tables": [
            {
                "title": "Base model: after pre-training",
                "model": "base",
                "rows": [
                    _row(
                        "facts, completed", "exact match", 0.973, 300, 0.05, 0.95, "stated in pre-training, completed"
                    ),
                    _row("sums, completed", "exact match", 0.94, 100, 0.05, 0.95, "stated in pre-training, completed"),
                    _row("story endings, four candidates", "Monte-Carlo likelihood, 16 samples", 0.81, 300, 0.25),
                    _row("story endings, four candidates", "confidence score", 0.835, 300, 0.25),
                ],
            },
            {
                "title": "Instruct model: after fine-tuning",
                "model": "instruct",
                "rows": [
                    _row("fact", "exact match", 0.963, 300, 0.05, 0.95, "never asked in fine-tuning"),
                    _row("word sum", "exact match", 0.52, 300, 1 / 27, 0.6, "two steps, worked"),
                    _row("reversal", "exact match", 0.013, 150, 1 / 60, None, "told in the other direction only"),
                    {"task": "loss", "metric": "bound", "value": 1.25, "unit": "nats/token"},
                ],
            },
        ],
        "samples": [
            {
                "model": "base",
                "kind": "story",
                "prompt": "",
                "text": " ".join(STORY[:-1]),
                "answer": None,
                "is_correct": True,
            },
            {
                "model": "base",
                "kind": "story",
                "prompt": "",
                "text": "tom has a red kite . now tom",
                "answer": None,
                "is_correct": False,
            },
            {
                "model": "instruct",
                "kind": "fact",
                "prompt": "where does anna live ?",
                "text": "oslo",
                "answer": "oslo",
                "is_correct": True,
            },
            {
                "model": "instruct",
                "kind": "sum",
                "prompt": "what is 3 plus 4 ?",
                "text": "8",
                "answer": "7",
                "is_correct": False,
            },
            {
                "model": "instruct",
                "kind": "word_sum",
                "prompt": "tom has 3 hats and gets 4 , then 2 . how many ?",
                "text": "3 plus 4 is 7 . 7 plus 2 is 9 . the answer is 9",
                "answer": "9",
                "is_correct": True,
            },
            {"model": "instruct", "kind": "free", "text": ""},
        ],
        "health": [
            {
                "name": "answers that ended by themselves",
                "value": "98.7 %",
                "note": "the others filled their budget",
                "is_warning": False,
            },
            {"name": "empty answers", "value": "31.0 %", "note": "EOS at once", "is_warning": True},
            {"name": "passes per answer", "value": 9.25, "note": "predictor passes (NFE)"},
            {"name": "tokens per second", "value": 1480},
        ],
        "traces": [
            _trace("story 1", "base", ["<bos>"], STORY, draw, block_length=None),
            {
                **_trace(
                    "word sum: tom has 3 hats",
                    "instruct",
                    ["tom", "has", "3", "hats", ",", "gets", "4", ".", "how", "many", "?"],
                    ["3", "plus", "4", "is", "7", ".", "the", "answer", "is", "7", "<eos>", "<eos>", "<eos>", "<eos>"],
                    draw,
                    block_length=8,
                ),
                "is_growing": True,
                "sampler": "variable length, blocks of 8",
            },
            _remasked(),
        ],
        "claims": [
            {
                "id": "sft-epochs",
                "sentence": "More epochs of fine-tuning help.",
                "source": "Figure 3",
                "metric": "exact match",
                "verdict": "inconclusive",
                "effect": 0.01,
                "ci_low": -0.02,
                "ci_high": 0.04,
            },
        ],
    }


def _stage(name: str, n_steps: int, first: float, entropy: dict[str, float], draw: random.Random) -> dict[str, Any]:
    goals = entropy or {"all": 0.55}
    near = {kind: (1.08 + 0.1 * i) * goal for i, (kind, goal) in enumerate(goals.items())}
    return {
        "name": name,
        "seconds": n_steps * 0.15,
        "tokens": n_steps * 2048,
        "tokens_per_second": 11_400.0,
        "train_curve": [
            {"step": s, "loss": (0.5 + (first - 0.5) * math.exp(-s / 250)) * draw.lognormvariate(0, 0.12), "lr": 1e-2}
            for s in range(10, n_steps + 1, 10)
        ],
        "validation_curve": [
            {
                "step": s,
                "kind": kind,
                "nelbo_per_token": goal + (first - goal) * math.exp(-s / 300),
                "stderr": 0.03 * goal,
            }
            for s in range(0, n_steps + 1, 200)
            for kind, goal in near.items()
        ],
        "entropy_per_token": entropy,
        "t_bins": [
            {
                "t_low": i / 10,
                "t_high": (i + 1) / 10,
                "loss": 0.1 + 0.12 * i,
                "ci_low": 0.05 + 0.12 * i,
                "ci_high": 0.15 + 0.12 * i,
                "n": 150,
            }
            for i in range(10)
        ],
    }


def _row(
    task: str, metric: str, value: float, n: int, chance: float, target: float | None = None, note: str = ""
) -> dict[str, Any]:
    around = 1.96 * math.sqrt(value * (1 - value) / n)
    return {
        "task": task,
        "metric": metric,
        "value": value,
        "ci_low": max(0.0, value - around),
        "ci_high": min(1.0, value + around),
        "n": n,
        "chance": chance,
        "target": target,
        "note": note,
    }


def _trace(
    title: str, model: str, prompt: list[str], tokens: list[str], draw: random.Random, block_length: int | None
) -> dict[str, Any]:
    size = block_length or len(tokens)
    order = [
        p
        for start in range(0, len(tokens), size)
        for p in draw.sample(range(start, min(start + size, len(tokens))), min(size, len(tokens) - start))
    ]
    return {
        "title": title,
        "model": model,
        "prompt_tokens": prompt,
        "tokens": tokens,
        "mask": "▢",
        "block_length": block_length,
        "records": [
            {
                "step": i + 1,
                "position": p,
                "token": tokens[p],
                "confidence": (c := draw.betavariate(2.2, 0.8)),
                "runner_up": draw.choice(tokens),
                "runner_up_confidence": (1 - c) / 2,
                "nfe": i + 1,
            }
            for i, p in enumerate(order)
        ],
    }


def _remasked() -> dict[str, Any]:
    def record(step: int, position: int, token: str | None, confidence: float | None) -> dict[str, Any]:
        return {"step": step, "position": position, "token": token, "confidence": confidence}

    return {
        "title": "a token goes back to a mask",
        "model": "base",
        "prompt_tokens": [],
        "tokens": ["yes", " no"],
        "records": [
            record(3, 1, " no", 0.8),
            record(0, 0, "no", 0.2),
            record(1, 0, None, None),
            record(2, 0, "yes", 0.9),
        ],
    }
