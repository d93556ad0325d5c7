"""Log-probabilities of true tokens under masks, for many sequences at once: what every scoring rule is made of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from illada_lab.models.protocol import Predictor
from illada_lab.samplers.asker import NO_NUMBERS, Asker

# Positions per forward pass; our choice, measured (10M parameters, two threads of an AMD EPYC: 2,048 at once take a fifth longer than
# 4,096, and 3,072 as long); a GPU wants more to do.
BATCH_TOKENS = {"cpu": 4096}
MANY_TOKENS = 2**15
# Logits per forward pass, float32: 128 MiB. Decides where a vocabulary is large (155,136 tokens: 216 predictions at once).
BATCH_LOGITS = 2**25

Pair = tuple[Sequence[int], Sequence[int]]


@dataclass
class Padded:
    """Sequences `prompt + response + append`, one row each, padded on the right.

    Attributes:
        clean: tokens; the filler id at the padding.
        is_valid: false at the padding.
        is_prompt, is_response: which positions are which.
        n_prompt: tokens of each prompt.
    """

    clean: Int[Tensor, "n W"]
    is_valid: Bool[Tensor, "n W"]
    is_prompt: Bool[Tensor, "n W"]
    is_response: Bool[Tensor, "n W"]
    n_prompt: Int[Tensor, " n"]

    @classmethod
    def of(cls, predictor: Predictor, pairs: Sequence[Pair], append: Sequence[int] = ()) -> "Padded":
        """Lay out pairs of (prompt, response) on the predictor's device."""
        rows = [[*prompt, *response, *append] for prompt, response in pairs]
        width = max(map(len, rows))
        clean = torch.tensor([[*row, *[predictor.tokens.filler] * (width - len(row))] for row in rows])
        n_prompt = torch.tensor([len(prompt) for prompt, _ in pairs])
        ends = torch.tensor([len(prompt) + len(response) for prompt, response in pairs])
        column = torch.arange(width)
        is_prompt = column < n_prompt[:, None]
        is_response = ~is_prompt & (column < ends[:, None])
        is_valid = column < ends[:, None] + len(append)
        parts = (clean, is_valid, is_prompt, is_response, n_prompt)
        return cls(*(part.to(device_of(predictor)) for part in parts))


def check_pairs(predictor: Predictor, pairs: Sequence[Pair], append: Sequence[int] = ()) -> None:
    """Raise ValueError for what cannot be scored under masks: as `check_sequences`, or a model that looks back only."""
    if looks_back(predictor):
        raise ValueError(
            "model.is_causal = true; an autoregressive model fills in no masks; rule chain_rule, or a mask predictor"
        )
    check_sequences(predictor, pairs, append)


def check_sequences(predictor: Predictor, pairs: Sequence[Pair], append: Sequence[int] = ()) -> None:
    """Raise ValueError for what no rule can score: nothing, more than the context, ids that are none, [MASK] itself."""
    spec = getattr(predictor, "spec", None)
    limit, n_tokens = getattr(spec, "max_length", None), getattr(spec, "vocab_size", None)
    for number, (prompt, response) in enumerate(pairs):
        if len(response) == 0:
            raise ValueError(f"response = []; nothing to score in pair {number}; at least one token")
        n, ids = len(prompt) + len(response) + len(append), (*prompt, *response, *append)
        if min(ids) < 0 or n_tokens is not None and max(ids) >= n_tokens:
            odd = next(i for i in ids if i < 0 or n_tokens is not None and i >= n_tokens)
            legal = "0 or more" if n_tokens is None else f"0 to {n_tokens - 1}"
            raise ValueError(f"token = {odd} in pair {number}; not in the vocabulary; {legal}")
        if predictor.tokens.mask in ids:
            raise ValueError(
                f"token = {predictor.tokens.mask} in pair {number}; the id of [MASK], which hides a token and is none itself; "
                "the token that it hides"
            )
        if limit is not None and n > limit:
            raise ValueError(
                f"prompt + response = {n} tokens; pair {number} is longer than the model's context; at most {limit}"
            )


def looks_back(predictor: Predictor) -> bool:
    """Whether a predictor is an autoregressive twin."""
    return bool(getattr(getattr(predictor, "spec", None), "is_causal", False))


def device_of(predictor: Predictor) -> torch.device:
    """Where a predictor computes."""
    return getattr(getattr(predictor, "head_weight", None), "device", torch.device("cpu"))


def token_budget(predictor: Predictor) -> int:
    """Positions that one pass of a predictor should compute at most."""
    return BATCH_TOKENS.get(device_of(predictor).type, MANY_TOKENS)


def batches_by_length(
    predictor: Predictor, lengths: Sequence[int], n_masks: Sequence[int], *, is_longest_first: bool = False
) -> Iterator[list[int]]:
    """Numbers of sequences of similar length, as many as one pass takes.

    Args:
        predictor: what will be asked; its device and its vocabulary decide how much at once.
        lengths: tokens of each sequence.
        n_masks: positions of each at which the head is applied.
        is_longest_first: begin with the longest sequences; other batches, so other last digits.
    """
    budget, n_tokens = token_budget(predictor), len(getattr(predictor, "head_weight", ()))
    batch: list[int] = []
    width = masks = 0
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=is_longest_first):
        wider, more = max(width, lengths[i]), masks + n_masks[i]
        if batch and ((len(batch) + 1) * wider > budget or more * n_tokens > BATCH_LOGITS):
            yield batch
            batch, wider, more = [], lengths[i], n_masks[i]
        batch.append(i)
        width, masks = wider, more
    if batch:
        yield batch


@torch.inference_mode()
def true_log_probs(
    predictor: Predictor,
    padded: Padded,
    rows: Int[Tensor, " b"],
    is_masked: Bool[Tensor, "b W"],
    guidance_scale: float = 0.0,
) -> Float[Tensor, " M"]:
    """log p of the true token at every masked position, row by row; float64, nats.

    What looks the same is asked once: candidates of one question before any of their tokens is revealed, mask sets drawn twice.

    Args:
        predictor: the model; its head is applied at the masks only.
        padded: the sequences.
        rows: sequence of each mask set.
        is_masked: the mask sets.
        guidance_scale: classifier-free guidance; 0 is off.
    """
    clean, valid, is_prompt = padded.clean[rows], padded.is_valid[rows], padded.is_prompt[rows]
    x = torch.where(is_masked, predictor.tokens.mask, clean)
    kept, copy_of = _distinct(torch.where(valid, x, -1) * 4 + is_prompt * 2 + is_masked)
    masks = is_masked[kept]
    has_padding = not bool(valid[kept].all())
    asker = Asker(predictor, guidance_scale, torch.zeros(len(kept), dtype=torch.long, device=x.device))
    logits = asker.logits_at(
        x[kept], masks, valid[kept] if has_padding else None, is_prompt[kept], torch.arange(len(kept), device=x.device)
    )
    normaliser = _log_sum_exp(logits)
    # Number of the prediction at each position of the rows that were asked.
    place = torch.zeros(masks.shape, dtype=torch.long, device=x.device)
    place[masks] = torch.arange(len(logits), device=x.device)
    asked = place[copy_of][is_masked]
    log_p = logits[asked, clean[is_masked]].double() - normaliser[asked]
    if bool(log_p.isnan().any()):
        raise ValueError(NO_NUMBERS)
    return log_p


def _log_sum_exp(logits: Float[Tensor, "M V"]) -> Float[Tensor, " M"]:
    """log sum exp of each row in float64, its exponentials in float32: those of a large vocabulary are most of what is left to do."""
    top = logits.amax(1, keepdim=True)
    return top[:, 0].double() + (logits.float() - top.float()).exp_().sum(1, dtype=torch.float64).log()


def _distinct(keys: Int[Tensor, "b W"]) -> tuple[Int[Tensor, " k"], Int[Tensor, " b"]]:
    """Rows of which no other is a copy, and for each row the number of its like among them."""
    everything = torch.arange(len(keys), device=keys.device)
    odd = torch.randint(2**62, (keys.shape[1],), generator=torch.Generator().manual_seed(0)) * 2 + 1
    digest = (keys * odd.to(keys.device)).sum(1)  # wraps around
    _, copy_of = digest.unique(return_inverse=True)
    first = torch.full((int(copy_of.max()) + 1,), len(keys), device=keys.device)
    first = first.scatter_reduce(0, copy_of, everything, "amin")
    # Digests may agree by chance; then every row is asked for itself.
    return (first, copy_of) if bool((keys[first[copy_of]] == keys).all()) else (everything, everything)
