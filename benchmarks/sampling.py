"""Speed of decoding against a plain loop, side by side in one run.

    python -m benchmarks.sampling [--device cpu] [--threads 2] [--rounds 3] [--toy FOLDER]

The baseline is the published loop as one writes it first: logits at every position of the canvas, at every step, all of them turned
into probabilities, with PyTorch's own matrix products. Variants take turns round by round; a ratio is the median over rounds of (plain
loop / variant). On a CPU a random model of 44M parameters, on a GPU the 8B shape with random weights in bf16. A fine-tuned toy
model (`make reproduce` leaves one) shows what a threshold costs in exact match.
On a GPU some variants are repeated with compiled layers and recorded passes, and each is held against the device: the least time its passes
could take, weights read once a pass at the measured bandwidth or products at the measured rate, over the time it took.
Writes a table and `benchmarks/results/sampling_<device>.json`.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import parser, started, write
from illada_lab.models import MaskPredictor
from illada_lab.models.linear import torch_products
from illada_lab.models.recorded import RecordedPredictor
from illada_lab.samplers import FixedLength, Threshold, VariableLength
from illada_lab.tokens import ILLADA
from illada_lab.training.machine import matmul_rate

CPU_SIZES: dict[str, Any] = dict(
    vocab_size=16_384, d_model=512, n_layers=8, n_heads=8, n_kv_heads=8, d_ffn=1536, max_length=1024, is_tied=False
)
GPU_SIZES: dict[str, Any] = dict(
    vocab_size=155_136, d_model=4096, n_layers=32, n_heads=32, n_kv_heads=8, d_ffn=14_336, max_length=8192, is_tied=True
)
PROMPT, BLOCK = 128, 32
# Sharpens the random head, so that a prediction is decided as a trained model's is. Our choice: the median top probability is near 1.
HEAD_SCALE = 30.0
THRESHOLD = 0.9
TOY = Path("runs/reproduce-toy-seed0/sft")


@dataclass
class Variant:
    """One way to decode: `run()` returns the tokens of all responses, int64 [B, R]."""

    name: str
    run: Callable[[], Tensor]
    n_tokens: int
    seconds: list[float] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)


class Timed:
    """A predictor that counts the seconds spent inside of it; what is left of a generation is the sampler's own."""

    def __init__(self, predictor: MaskPredictor | RecordedPredictor) -> None:
        self.inner, self.tokens, self.spec, self.seconds = predictor, predictor.tokens, predictor.spec, 0.0
        self.new_cache = predictor.new_cache

    def _timed(self, call: Callable[..., Tensor], *arguments: Any) -> Tensor:
        begin = time.perf_counter()
        out = call(*arguments)
        if out.is_cuda:
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - begin
        return out

    def __call__(self, x: Tensor, is_valid: Tensor | None = None) -> Tensor:
        """Logits everywhere."""
        return self._timed(self.inner, x, is_valid)

    def logits_at(self, x: Tensor, is_wanted: Tensor, is_valid: Tensor | None = None) -> Tensor:
        """Logits at some positions."""
        return self._timed(self.inner.logits_at, x, is_wanted, is_valid)

    def hidden_window(self, *arguments: Any) -> Tensor:
        """Hidden states of a window."""
        return self._timed(self.inner.hidden_window, *arguments)

    def head(self, h: Tensor) -> Tensor:
        """Logits of hidden states."""
        return self._timed(self.inner.head, h)


@torch.no_grad()
@torch_products()
def plain_loop(predictor: MaskPredictor, prompt: Tensor, n_response: int, n_steps: int, block_length: int) -> Tensor:
    """The published algorithm at temperature 0, low-confidence remasking, as a first implementation with PyTorch's own products."""
    mask, n_prompt = predictor.tokens.mask, prompt.shape[1]
    x = F.pad(prompt, (0, n_response), value=mask)
    n_blocks = n_response // block_length
    for block in range(n_blocks):
        stop = n_prompt + (block + 1) * block_length
        base, rest = divmod(block_length, n_steps // n_blocks)
        for step in range(n_steps // n_blocks):
            is_masked = x == mask
            logits = predictor(x)
            best = logits.argmax(-1)
            p = F.softmax(logits, -1).gather(-1, best[..., None])[..., 0]
            p[:, stop:] = -torch.inf
            confidence = torch.where(is_masked, p, -torch.inf)
            for row in range(len(x)):
                chosen = confidence[row].topk(base + (step < rest)).indices
                x[row, chosen] = best[row, chosen]
    return x[:, n_prompt:]


def random_model(device: str) -> MaskPredictor:
    """Random weights, the head sharpened; a [MASK] that the plain loop never predicts, so that both end alike."""
    sizes = GPU_SIZES if device == "cuda" else CPU_SIZES
    with torch.device(device):
        torch.manual_seed(0)
        predictor = MaskPredictor(tokens=ILLADA, **sizes)
    if device == "cuda":
        predictor = predictor.to(torch.bfloat16)
    with torch.no_grad():
        # A last norm of this weight sharpens a tied head too.
        predictor.norm.weight.mul_(HEAD_SCALE)
        predictor.head_weight[ILLADA.mask].zero_()
    return predictor.eval()


def random_prompt(n_rows: int, length: int, vocab_size: int, device: str, seed: int = 0) -> Tensor:
    """Ordinary tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(7, vocab_size, (n_rows, length), generator=generator).to(device)


def sampler_variant(
    name: str, predictor: MaskPredictor | RecordedPredictor, prompt: Tensor, n_response: int, **rules: Any
) -> Variant:
    """One of ours: blocks of 32, one token per step unless a transfer rule decides."""
    sampler = FixedLength(response_length=n_response, block_length=BLOCK, has_trace=False, **rules)
    timed = Timed(predictor)
    about: dict[str, Any] = {}

    def run() -> Tensor:
        timed.seconds, begin = 0.0, time.perf_counter()
        out = sampler.sample(timed, prompt)
        about["nfe"] = int(out.nfe[0])
        about["token_forwards"] = int(out.token_forwards[0])
        about.setdefault("outside", []).append(1 - timed.seconds / (time.perf_counter() - begin))
        return out.tokens[:, prompt.shape[1] :]

    return Variant(name, run, n_response * len(prompt), about=about)


def take_turns(variants: list[Variant], rounds: int) -> dict[str, Tensor]:
    """Each variant in each round; the first round warms up and is not counted. Returns the tokens of each."""
    found = {}
    for number in range(rounds + 1):
        for variant in variants:
            begin = time.perf_counter()
            tokens = variant.run()
            if tokens.is_cuda:
                torch.cuda.synchronize()
            if number:
                variant.seconds.append(time.perf_counter() - begin)
            found[variant.name] = tokens.cpu()
    return found


def rows_of(variants: list[Variant], outputs: dict[str, Tensor]) -> list[dict[str, Any]]:
    """The table: rate, ratio to the first variant, share of tokens equal to its."""
    base = variants[0]
    table = []
    for variant in variants:
        ratios = [
            (one / base.n_tokens) / (own / variant.n_tokens)
            for one, own in zip(base.seconds, variant.seconds, strict=True)
        ]
        row = {
            "variant": variant.name,
            "tokens_per_second": variant.n_tokens / statistics.median(variant.seconds),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
        if outputs[variant.name].shape == outputs[base.name].shape:
            row["equal_tokens"] = float((outputs[variant.name] == outputs[base.name]).float().mean())
        if "outside" in variant.about:
            row["share_outside_network"] = statistics.median(variant.about["outside"])
            row |= {name: variant.about[name] for name in ("nfe", "token_forwards")}
        table.append(row)
    return table


def add_limits(table: list[dict[str, Any]], predictor: MaskPredictor, n_response: int) -> None:
    """The device's share: the least time the passes could take over the time they took, and what bounds it."""
    bandwidth, rate = copy_rate("cuda"), matmul_rate("cuda", "bf16")
    in_layers = sum(p.numel() for p in predictor.layers.parameters())
    n_head = predictor.head_weight.numel()
    for row in table:
        if "nfe" not in row:
            continue
        of_bytes = row["nfe"] * 2 * (in_layers + n_head) / bandwidth
        # The head's positions, one block at most a pass, are few beside the layers'.
        of_products = 2 * in_layers * row["token_forwards"] / rate
        least = max(of_bytes, of_products)
        row["bound_by"] = "bandwidth" if of_bytes > of_products else "products"
        row["share_of_limit"] = least * row["tokens_per_second"] / n_response


def copy_rate(device: str, n_bytes: int = 2**31, rounds: int = 10) -> float:
    """Bytes read and written per second by a copy from the device to itself."""
    source = torch.empty(n_bytes, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(rounds):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * n_bytes / best


def random_tables(device: str, rounds: int, responses: list[int]) -> dict[str, list[dict[str, Any]]]:
    """The random model: response lengths, then a ragged batch against a row alone."""
    predictor = random_model(device)
    recordings = {}
    if device == "cuda":
        compiled = random_model(device)
        compiled.load_state_dict(predictor.state_dict(), assign=True)  # the same memory
        for layer in compiled.layers:
            layer.compile(dynamic=False)
        recordings = {"recorded": RecordedPredictor(predictor), "compiled, recorded": RecordedPredictor(compiled)}
    tables = {}
    for n_response in responses:
        prompt = random_prompt(1, PROMPT, predictor.spec.vocab_size, device)

        def plain(prompt: Tensor = prompt, n: int = n_response) -> Tensor:
            return plain_loop(predictor, prompt, n, n, BLOCK)

        fast = dict(cache="dual", transfer=Threshold(threshold=THRESHOLD))
        variants = [
            Variant("plain loop", plain, n_response),
            sampler_variant("ours, no cache", predictor, prompt, n_response),
            sampler_variant("prefix cache", predictor, prompt, n_response, cache="prefix"),
            sampler_variant("dual cache", predictor, prompt, n_response, cache="dual"),
            sampler_variant(f"dual cache, threshold {THRESHOLD}", predictor, prompt, n_response, **fast),
        ]
        for how, recorded in recordings.items():
            variants += [
                sampler_variant(f"ours, no cache, {how}", recorded, prompt, n_response),
                sampler_variant(f"dual cache, {how}", recorded, prompt, n_response, cache="dual"),
                sampler_variant(f"dual cache, threshold {THRESHOLD}, {how}", recorded, prompt, n_response, **fast),
            ]
        outputs = take_turns(variants, rounds)
        table = rows_of(variants, outputs)
        for row in table:
            # The same kernels launched otherwise; what is compiled rounds otherwise.
            twin = outputs.get(row["variant"].removesuffix(", recorded"))
            if row["variant"].endswith(", recorded") and twin is not None:
                row["equal_tokens_unrecorded"] = float((outputs[row["variant"]] == twin).float().mean())
        if device == "cuda":
            add_limits(table, predictor, n_response)
        tables[f"random model, prompt {PROMPT}, response {n_response}, block {BLOCK}"] = table
    return tables


def ragged_table(
    predictor: MaskPredictor, device: str, rounds: int, lengths: list[int], n_response: int, block_length: int
) -> list[dict[str, Any]]:
    """Prompts of several lengths: one after the other, and as one padded batch; tokens must be equal."""
    width, vocab_size = max(lengths), predictor.spec.vocab_size
    prompts = [random_prompt(1, n, vocab_size, device, seed=i) for i, n in enumerate(lengths)]
    x = torch.cat([F.pad(p, (width - p.shape[1], 0), value=predictor.tokens.filler) for p in prompts])
    is_valid = torch.cat([F.pad(torch.ones_like(p, dtype=torch.bool), (width - p.shape[1], 0)) for p in prompts])
    sampler = FixedLength(response_length=n_response, block_length=block_length, has_trace=False, cache="dual")

    def alone() -> Tensor:
        return torch.cat([sampler.sample(predictor, p).tokens[:, -n_response:] for p in prompts])

    def together() -> Tensor:
        return sampler.sample(predictor, x, is_valid).tokens[:, -n_response:]

    n_tokens = len(lengths) * n_response
    variants = [Variant("one after the other", alone, n_tokens), Variant("one batch", together, n_tokens)]
    return rows_of(variants, take_turns(variants, rounds))


def toy_tables(folder: Path, rounds: int, n_questions: int) -> dict[str, list[dict[str, Any]]]:
    """A trained toy model that answers questions one at a time, the plain loop at the budget of 32 first."""
    from illada_lab.data.chat import ChatTemplate
    from illada_lab.data.worlds import world_of
    from illada_lab.evaluation.generation import is_right
    from illada_lab.training.checkpoint import load_run

    loaded = load_run(folder)
    source, chat = loaded.config["data"]["source"], ChatTemplate(loaded.tokenizer)
    world = world_of(source)
    kinds = ("fact", "sum", "fact_unasked", "sum_unasked", "word_sum")
    items = [item for kind in kinds for item in world.questions("test", kind, n_questions, seed=0)]
    prompts = [torch.tensor([chat.prompt([{"role": "user", "content": item.prompt}])]) for item in items]
    budget, block = 32, 8
    width = budget + 1
    stop_ids = loaded.predictor.tokens.stop_ids

    def answers(respond: Callable[[Tensor], list[int]]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            out = torch.full((len(prompts), width), -1)
            for n, prompt in enumerate(prompts):
                ids = respond(prompt)
                out[n, : len(ids)] = torch.tensor(ids)
            return out

        return run

    def plain(prompt: Tensor) -> list[int]:
        written = plain_loop(loaded.predictor, prompt, budget, budget, block)[0].tolist()
        return written[: next((i for i, token in enumerate(written) if token in stop_ids), budget)]

    def ours(**rules: Any) -> Callable[[], Tensor]:
        sampler = VariableLength(max_length=budget, block_length=block, has_trace=False, **rules)
        return answers(lambda prompt: sampler.sample(loaded.predictor, prompt).responses[0])

    accept = Threshold(threshold=THRESHOLD)
    # An answer is the unit: what stands behind its end is no one's text.
    variants = [
        Variant("plain loop, 32 tokens", answers(plain), len(prompts)),
        Variant("variable length", ours(), len(prompts)),
        Variant(f"variable length, threshold {THRESHOLD}", ours(transfer=accept), len(prompts)),
        Variant(
            f"variable length, dual cache, threshold {THRESHOLD}", ours(transfer=accept, cache="dual"), len(prompts)
        ),
        # What an answer of a few steps loses to stale keys it gets back by a full pass at every second step.
        Variant(
            "the same, refreshed every 2 steps", ours(transfer=accept, cache="dual", refresh_every=2), len(prompts)
        ),
    ]
    outputs = take_turns(variants, rounds)
    table = rows_of(variants, outputs)
    for row in table:
        row["answers_per_second"] = row.pop("tokens_per_second")
        written = outputs[row["variant"]].tolist()
        texts = [loaded.tokenizer.decode([i for i in ids if i >= 0], skip_special=False) for ids in written]
        right = [is_right(text, item.answer) for text, item in zip(texts, items, strict=True)]
        row["exact_match"], row["n_questions"] = sum(right) / len(right), len(right)
    lengths = [6, 8, 9, 11, 12, 14, 15, 16]
    return {
        f"trained toy model, one question at a time ({', '.join(kinds)})": table,
        "trained toy model, ragged batch of 8, response 32, blocks of 8": ragged_table(
            loaded.predictor, "cpu", rounds * 3, lengths, 32, 8
        ),
    }


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """One table in the terminal."""
    print(f"\n{title}")
    rate = "answers_per_second" if "answers_per_second" in rows[0] else "tokens_per_second"
    print(
        f"{'variant':44}{rate.replace('_per_second', '/s'):>10}{'ratio':>8}  {'(min-max)':15}",
        "equal  outside  right   limit",
    )
    for row in rows:
        spread = f"({row['ratio_min']:.2f}-{row['ratio_max']:.2f})"
        shares = [
            row.get(k)
            for k in (
                "equal_tokens",
                "share_outside_network",
                "exact_match",
                "share_of_limit",
                "equal_tokens_unrecorded",
            )
        ]
        told = "  ".join("   -   " if share is None else f"{share:6.1%} " for share in shares)
        print(f"{row['variant']:44}{row[rate]:10.1f}{row['ratio']:8.2f}  {spread:15}{told}")


def main() -> None:
    """Measure, print, write."""
    made = parser("Speed of decoding against a plain loop", rounds=3)
    made.add_argument("--responses", type=int, nargs="+", default=[128, 256])
    made.add_argument("--toy", type=Path, default=TOY, help="folder of a fine-tuned run of the main job")
    made.add_argument("--questions", type=int, default=40, help="per kind, of the toy model")
    arguments = started(made)
    tables = random_tables(arguments.device, arguments.rounds, arguments.responses)
    lengths = [PROMPT - 8 * i for i in range(8)]
    tables["random model, ragged batch of 8, response 32"] = ragged_table(
        random_model(arguments.device), arguments.device, arguments.rounds, lengths, BLOCK, BLOCK
    )
    if not arguments.toy.exists():
        print(f"{arguments.toy} is not there: without the trained toy model (make reproduce)")
    elif arguments.device == "cpu":
        tables |= toy_tables(arguments.toy, arguments.rounds, arguments.questions)
    sizes = GPU_SIZES if arguments.device == "cuda" else CPU_SIZES
    write(arguments, "sampling", {"sizes": sizes, "tables": tables})
    for title, rows in tables.items():
        print_table(title, rows)


if __name__ == "__main__":
    main()
