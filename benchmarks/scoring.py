"""Speed of scoring multiple choice against a loop over candidates, side by side in one run.

    python -m benchmarks.scoring [--device cpu] [--threads 2] [--rounds 3] [--questions 100]

Four-choice questions, candidates of 8 tokens behind a prompt of 64, a random model of 10M parameters. The loop is what one writes
first: one candidate at a time, logits and log-probabilities at every position, PyTorch's own matrix products. For the Monte-Carlo rule it
comes in two forms: one pass for each mask set, and (stronger) the mask sets of a candidate in batches of 32, as the published code does.
Loop and ours draw the same mask sets, so their scores must agree. Variants take turns round by round; a ratio is the median over
rounds of (loop / ours). Writes a table and `benchmarks/results/scoring_<device>.json`.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.common import parser, started, write
from illada_lab.evaluation.choice import confidence_scores
from illada_lab.evaluation.likelihood import monte_carlo_log_likelihoods, stratified_counts
from illada_lab.evaluation.masked import Pair
from illada_lab.models import MaskPredictor
from illada_lab.models.linear import torch_products
from illada_lab.tokens import ILLADA

# Ten million parameters with the head, which is tied. How much of the work the head is decides how much limiting it to the masks
# saves, so two shapes: the vocabulary of scale=small with a BPE tokenizer, and that of a usual pretrained tokenizer. Our choice.
_SHARED: dict[str, Any] = dict(max_length=256, is_tied=True)
SHAPES: dict[str, dict[str, Any]] = {
    "vocabulary 8,192": dict(vocab_size=8192, d_model=320, n_layers=6, n_heads=5, n_kv_heads=5, d_ffn=832, **_SHARED),
    "vocabulary 32,768": dict(
        vocab_size=32_768, d_model=192, n_layers=8, n_heads=6, n_kv_heads=6, d_ffn=512, **_SHARED
    ),
}
PROMPT, CANDIDATE, N_CANDIDATES, N_SAMPLES, LOOP_BATCH = 64, 8, 4, 128, 32
# Of the questions one in so many is scored with 128 samples.
MC_SHARE = 50
# Scores of 8 tokens are about 70 nats.
TOLERANCE = 1e-3


@dataclass
class Variant:
    """One way to score all candidates: `run()` returns the scores."""

    name: str
    run: Callable[[], list[float]]
    seconds: list[float] = field(default_factory=list)


def questions(n: int, vocab_size: int) -> list[Pair]:
    """Candidates of n questions, four of the same prompt in a row."""
    generator = torch.Generator().manual_seed(0)
    found: list[Pair] = []
    for _ in range(n):
        prompt = torch.randint(7, vocab_size, (PROMPT,), generator=generator).tolist()
        candidates = torch.randint(7, vocab_size, (N_CANDIDATES, CANDIDATE), generator=generator)
        found += [(prompt, candidate) for candidate in candidates.tolist()]
    return found


def random_model(device: str, sizes: dict[str, Any]) -> MaskPredictor:
    """Random weights, larger than a new model's, so that scores differ."""
    return (
        MaskPredictor(tokens=ILLADA, generator=torch.Generator().manual_seed(0), init_std=0.05, **sizes)
        .to(device)
        .eval()
    )


@torch_products()
@torch.no_grad()
def confidence_loop(predictor: MaskPredictor, pairs: list[Pair]) -> list[float]:
    """The confidence score, candidate by candidate."""
    scores = []
    for prompt, candidate in pairs:
        x = torch.tensor([[*prompt, *[ILLADA.mask] * len(candidate)]], device=predictor.head_weight.device)
        masked, total = set(range(len(candidate))), 0.0
        while masked:
            log_p = predictor(x)[0].float().log_softmax(-1)
            own = {i: float(log_p[len(prompt) + i, candidate[i]]) for i in masked}
            best = max(own, key=own.__getitem__)
            total += own[best]
            x[0, len(prompt) + best] = candidate[best]
            masked.remove(best)
        scores.append(total)
    return scores


@torch_products()
@torch.no_grad()
def monte_carlo_loop(predictor: MaskPredictor, pairs: list[Pair], n_samples: int, batch: int) -> list[float]:
    """The Monte-Carlo bound, candidate by candidate, `batch` mask sets at a time."""
    generator, device = torch.Generator().manual_seed(0), predictor.head_weight.device
    scores = []
    for prompt, candidate in pairs:
        length = len(candidate)
        counts = stratified_counts(length, n_samples, generator)
        sets = torch.rand(n_samples, length, generator=generator).argsort(1).argsort(1) < counts[:, None]
        clean, total = torch.tensor([*prompt, *candidate], device=device), 0.0
        for part, n_masked in zip(sets.split(batch), counts.split(batch), strict=True):
            wanted = torch.cat((torch.zeros(len(part), len(prompt), dtype=torch.bool), part), 1).to(device)
            x = torch.where(wanted, ILLADA.mask, clean)
            log_p = predictor(x).float().log_softmax(-1).gather(-1, clean.expand_as(x)[..., None])[..., 0]
            total += float(((log_p * wanted).sum(1) * length / n_masked.to(device)).sum())
        scores.append(total / n_samples)
    return scores


def tables(predictor: MaskPredictor, pairs: list[Pair], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Both rules; of Monte Carlo also one sample, the paper's setting of MMLU."""

    def ours(n_samples: int, own: list[Pair]) -> Callable[[], list[float]]:
        def run() -> list[float]:
            generator = torch.Generator().manual_seed(0)
            return [v for v, _ in monte_carlo_log_likelihoods(predictor, own, n_samples, generator=generator)]

        return run

    # 51,200 mask sets take a loop many minutes; a few questions tell its speed, and fill our passes.
    few = pairs[: N_CANDIDATES * max(1, len(pairs) // N_CANDIDATES // MC_SHARE)]
    rules = {
        "confidence score": [
            Variant("loop over candidates", lambda: confidence_loop(predictor, pairs)),
            Variant("ours, PyTorch's own products", lambda: _own_products(predictor, pairs)),
            Variant("ours", lambda: confidence_scores(predictor, pairs)[0]),
        ],
        "Monte Carlo, 1 sample": [
            Variant("loop over candidates", lambda: monte_carlo_loop(predictor, pairs, 1, 1)),
            Variant("ours", ours(1, pairs)),
        ],
        f"Monte Carlo, {N_SAMPLES} samples, {len(few) // N_CANDIDATES} questions": [
            Variant("loop, one mask set a pass", lambda: monte_carlo_loop(predictor, few, N_SAMPLES, 1)),
            Variant("loop, 32 mask sets a pass", lambda: monte_carlo_loop(predictor, few, N_SAMPLES, LOOP_BATCH)),
            Variant("ours", ours(N_SAMPLES, few)),
        ],
    }
    found = {}
    for rule, variants in rules.items():
        scores: dict[str, list[float]] = {}
        for _ in range(rounds):
            for variant in variants:
                begin = time.perf_counter()
                scores[variant.name] = variant.run()
                variant.seconds.append(time.perf_counter() - begin)
                print(f"{rule}: {variant.name}: {variant.seconds[-1]:.2f} s", file=sys.stderr, flush=True)
        found[rule] = [_row(variant, variants[-1], scores) for variant in variants]
    return found


@torch_products()
def _own_products(predictor: MaskPredictor, pairs: list[Pair]) -> list[float]:
    return confidence_scores(predictor, pairs)[0]


def _row(variant: Variant, ours: Variant, scores: dict[str, list[float]]) -> dict[str, Any]:
    ratios = [loop / own for loop, own in zip(variant.seconds, ours.seconds, strict=True)]
    pairs = zip(scores[variant.name], scores[ours.name], strict=True)
    difference = max(abs(a - b) for a, b in pairs)
    assert difference < TOLERANCE, f"{variant.name} gives other scores: {difference}"
    return {
        "variant": variant.name,
        "seconds": statistics.median(variant.seconds),
        "ours_is_faster_by": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "largest_difference_nats": difference,
    }


def main() -> None:
    """Measure, print, write."""
    made = parser("Speed of scoring multiple choice against a loop over candidates", rounds=3)
    made.add_argument("--questions", type=int, default=100)
    arguments = started(made)
    found: dict[str, list[dict[str, Any]]] = {}
    parameters: dict[str, int] = {}
    for shape, sizes in SHAPES.items():
        predictor, pairs = random_model(arguments.device, sizes), questions(arguments.questions, sizes["vocab_size"])
        parameters[shape] = predictor.spec.n_parameters
        confidence_scores(predictor, pairs[:8])  # warm
        found |= {f"{shape}: {rule}": rows for rule, rows in tables(predictor, pairs, arguments.rounds).items()}
    content = {
        "parameters": parameters,
        "sizes": SHAPES,
        "questions": arguments.questions,
        "candidates": N_CANDIDATES,
        "prompt_tokens": PROMPT,
        "candidate_tokens": CANDIDATE,
        "tables": found,
    }
    write(arguments, "scoring", content)
    print(f"{parameters} parameters, {arguments.questions} questions, {arguments.threads} threads")
    for rule, rows in found.items():
        print(f"\n{rule}\n{'variant':44}{'seconds':>9}{'ratio':>8}  {'(min-max)':15}{'difference':>11}")
        for row in rows:
            spread = f"({row['ratio_min']:.2f}-{row['ratio_max']:.2f})"
            print(
                f"{row['variant']:44}{row['seconds']:9.2f}{row['ours_is_faster_by']:8.2f}  {spread:15}"
                f"{row['largest_difference_nats']:11.1e}"
            )


if __name__ == "__main__":
    main()
