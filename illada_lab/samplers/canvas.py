"""Prompt and response while they are filled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from illada_lab.models.protocol import Predictor
from illada_lab.shapes import Positions, Tokens
from illada_lab.tokens import SpecialTokens

# What samplers take: a tensor, or one list of ids per row.
Rows = Tokens | Sequence[Sequence[int]]
Flags = Positions | Sequence[Sequence[bool]]


@dataclass
class Canvas:
    """Prompt and response while they are filled.

    Attributes:
        x: tokens, int64 [B, L].
        is_valid: attendable positions bool [B, L], or None: all.
        is_prompt: what guidance masks: positions that were given; in variable-length generation those of earlier blocks too.
        n_prompt: columns of the prompt; positions of the trace count from there.
        confidence: how sure each token was when it was last revealed, in the numbers of the confidence rule, float32 [B, L]; 0 where
            none was.
        n_steps: reverse steps taken so far.
        trace: see `Sampled`.
        on_step: called with the canvas after each step (live display), or None.
    """

    x: Tokens
    is_valid: Positions | None
    is_prompt: Positions
    n_prompt: int
    confidence: Tensor = field(init=False)
    n_steps: int = 0
    trace: list[dict[str, Any]] = field(default_factory=list)
    on_step: "Callable[[Canvas], None] | None" = None

    def __post_init__(self) -> None:
        self.confidence = torch.zeros(self.x.shape, device=self.x.device)

    @classmethod
    def start(cls, predictor: Predictor, prompt: Tokens, is_valid: Positions | None, n_response: int) -> "Canvas":
        """A prompt with `n_response` masks behind it.

        Args:
            predictor: whose [MASK] it is.
            prompt: int64 [B, P]; shorter prompts stand at the right, padding on the left.
            is_valid: bool [B, P], false at the padding; None: no padding.
            n_response: positions of the response.

        Raises:
            ValueError: an empty prompt, a [MASK] in it, padding on the right, flags that are not bool, or prompt + response longer than the
                context.
        """
        mask = predictor.tokens.mask
        check_width(prompt)
        check_flags(is_valid, prompt, "prompt")
        check_predictor(predictor, prompt)
        is_mask = prompt == mask if is_valid is None else (prompt == mask) & is_valid
        if bool(is_mask.any()):
            where = is_mask.nonzero()[0].tolist()
            raise ValueError(
                f"prompt[{where[0]}, {where[1]}] = {mask}; the id of [MASK] in a prompt would be filled in; "
                "remove it, or use Infill"
            )
        check_left_padded(is_valid)
        check_context(predictor, prompt.shape[1], n_response)
        canvas = cls(prompt.clone(), is_valid, torch.ones_like(prompt, dtype=torch.bool), prompt.shape[1])
        canvas.append(mask, n_response)
        return canvas

    @classmethod
    def infill(cls, predictor: Predictor, x: Tokens, is_valid: Positions | None) -> "Canvas":
        """A text with masks anywhere in it.

        Args:
            predictor: whose [MASK] it is.
            x: int64 [B, L].
            is_valid: bool [B, L], false at padding, wherever it stands; None: none.

        Raises:
            ValueError: a row without a mask, or longer than the context; flags that are not bool.
        """
        check_flags(is_valid, x, "text")
        is_masked = x == predictor.tokens.mask if is_valid is None else (x == predictor.tokens.mask) & is_valid
        if x.ndim != 2 or not bool(is_masked.any(1).all()):
            raise ValueError(
                f"text = shape {list(x.shape)}; a row without [MASK] has nothing to fill in; "
                f"the id {predictor.tokens.mask} where a token is wanted"
            )
        check_predictor(predictor, x)
        check_context(predictor, x.shape[1], 0)
        return cls(x.clone(), is_valid, ~is_masked, 0)

    @property
    def origin(self) -> Tensor:
        """Column from which each row's draws are counted, int64 [B]: padding must not move them."""
        if self.n_prompt or self.is_valid is None:
            return self.x.new_full((len(self.x),), self.n_prompt)
        return self.is_valid.int().argmax(1)

    def append(self, mask: int, n: int) -> None:
        """Put `n` masks behind everything."""
        extra = self.x.new_full((len(self.x), n), mask)
        self.x = torch.cat((self.x, extra), 1)
        self.is_prompt = torch.cat((self.is_prompt, torch.zeros_like(extra, dtype=torch.bool)), 1)
        self.confidence = torch.cat((self.confidence, torch.zeros_like(extra, dtype=self.confidence.dtype)), 1)
        if self.is_valid is not None:
            self.is_valid = torch.cat((self.is_valid, torch.ones_like(extra, dtype=torch.bool)), 1)

    def responses(self, tokens: SpecialTokens) -> list[list[int]]:
        """What stands behind the prompt so far, up to its first end; [MASK] where nothing does yet."""
        found = []
        for row in self.x[:, self.n_prompt :].tolist():
            end = next((i for i, token in enumerate(row) if token in tokens.stop_ids), None)
            found.append(row if end is None else row[:end])
        return found


def as_rows(
    x: Rows, is_valid: Flags | None, predictor: Predictor, name: str = "prompt"
) -> tuple[Tensor, Tensor | None]:
    """Token ids and flags as tensors; lists become tensors where the predictor computes.

    Raises:
        ValueError: lists that are no ids, not one per row, or rows of different lengths.
    """
    device = getattr(getattr(predictor, "head_weight", None), "device", None)
    ids = x if isinstance(x, Tensor) else _tensor(x, name, device)
    if is_valid is None or isinstance(is_valid, Tensor):
        return ids, is_valid
    return ids, _tensor(is_valid, "is_valid", ids.device)


def _tensor(rows: Any, name: str, device: torch.device | None) -> Tensor:
    try:
        found = torch.as_tensor(rows, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        lengths = sorted({len(row) for row in rows if isinstance(row, Sequence)}) if isinstance(rows, Sequence) else []
        if len(lengths) > 1:
            raise ValueError(
                f"{name} = rows of {lengths[0]} to {lengths[-1]} tokens; a batch has rows of one length; "
                "pad on the left, and say where in is_valid"
            ) from error
        raise ValueError(f"{name} = {type(rows).__name__}; not token ids ({error}); [[id, id, ...], ...]") from error
    if found.ndim != 2:
        raise ValueError(f"{name} = shape {list(found.shape)}; one list per row; [[id, id, ...], ...]")
    return found if found.numel() else found.long()


def check_predictor(predictor: Predictor, x: Tensor) -> None:
    """Raise ValueError for a model that fills in no masks, and for tokens that are none or that it does not know."""
    if getattr(getattr(predictor, "spec", None), "is_causal", False):
        raise ValueError(
            "model.is_causal = true; an autoregressive model fills in no masks; a mask predictor, or Greedy for the twin"
        )
    check_tokens(predictor, x)


def check_tokens(predictor: Predictor, x: Tensor) -> None:
    """Raise ValueError for tokens that are none, or that the predictor's vocabulary does not have."""
    if x.dtype != torch.long:
        raise ValueError(f"tokens = {x.dtype}; ids are whole numbers of 64 bits; torch.int64 (tokens.long())")
    n_tokens = getattr(getattr(predictor, "spec", None), "vocab_size", None)
    is_odd = (x < 0) if n_tokens is None else (x < 0) | (x >= n_tokens)
    if bool(is_odd.any()):
        legal = "0 or more" if n_tokens is None else f"0 to {n_tokens - 1}"
        raise ValueError(f"token = {int(x[is_odd][0])}; not in the vocabulary; {legal}")


def check_width(prompt: Tensor) -> None:
    """Raise ValueError for prompts that are no rows, or rows without a token."""
    if prompt.ndim != 2 or prompt.shape[1] == 0:
        raise ValueError(
            f"prompt = shape {list(prompt.shape)}; needs at least one token per row; [B, P], for example BOS alone"
        )


def check_flags(is_valid: Tensor | None, x: Tensor, name: str) -> None:
    """Raise ValueError for flags that are not bool, as Hugging Face's attention masks are, or not one per token of `x`."""
    if is_valid is not None and is_valid.shape != x.shape:
        raise ValueError(f"is_valid = shape {list(is_valid.shape)}; one flag per token of the {name}; {list(x.shape)}")
    if is_valid is not None and is_valid.dtype != torch.bool:
        raise ValueError(f"is_valid = {is_valid.dtype}; flags; is_valid.bool()")


def check_left_padded(is_valid: Positions | None) -> None:
    """Raise ValueError for padding behind a prompt or inside of it."""
    if is_valid is not None and bool((is_valid[:, :-1] & ~is_valid[:, 1:]).any() | ~is_valid[:, -1].all()):
        raise ValueError(
            "is_valid; a prompt's padding stands on its left, so that the response follows the prompt; left-pad"
        )


def check_ids(name: str, ids: Sequence[int], predictor: Predictor) -> None:
    """Raise ValueError for ids of a setting that the predictor's vocabulary does not have."""
    n_tokens = getattr(getattr(predictor, "spec", None), "vocab_size", None)
    odd = [i for i in ids if not isinstance(i, int) or i < 0 or (n_tokens is not None and i >= n_tokens)]
    if odd:
        legal = "0 or more" if n_tokens is None else f"0 to {n_tokens - 1}"
        raise ValueError(f"{name} = {list(ids)}; {odd[0]!r} is not in the vocabulary; {legal}")


def check_context(predictor: Predictor, n_prompt: int, n_response: int) -> None:
    """Raise ValueError if a canvas is longer than the predictor's context, where it has a limit."""
    limit = getattr(getattr(predictor, "spec", None), "max_length", None)
    if limit is not None and n_prompt + n_response > limit:
        raise ValueError(
            f"prompt + response = {n_prompt} + {n_response} tokens; longer than the model's context; at most {limit}"
        )
