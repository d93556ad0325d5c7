"""What samplers, scoring rules and objectives ask of a model, so that scripted ones in tests and notebooks will do."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from illada_lab.models.cache import Cache
from illada_lab.tokens import SpecialTokens


@runtime_checkable
class Predictor(Protocol):
    """Anything that gives a token distribution at every position; samplers and scoring rules need no more."""

    tokens: SpecialTokens

    def __call__(self, x: Tensor, is_valid: Tensor | None = None) -> Tensor:
        """Tokens int64 [B, L], attendable positions bool [B, L] -> logits [B, L, V]."""
        ...


@runtime_checkable
class HiddenPredictor(Predictor, Protocol):
    """A predictor that lets the head be applied at chosen positions only; objectives need it."""

    @property
    def head_weight(self) -> Tensor:
        """Weight of the head, [V, D]."""
        ...

    def hidden(self, x: Tensor, is_valid: Tensor | None = None, segment_ids: Tensor | None = None) -> Tensor:
        """Tokens [B, L] -> hidden states [B, L, D]; the logits are their product with `head_weight` [V, D]."""
        ...

    def token_losses(self, h: Tensor, targets: Tensor) -> Tensor:
        """Hidden states [M, D], tokens [M] -> -log p of the tokens in nats, float32 [M]; never all logits of a large V in memory."""
        ...


@runtime_checkable
class CachingPredictor(Predictor, Protocol):
    """A predictor that can compute a part of the canvas, the rest remembered from an earlier pass."""

    def new_cache(self, n_rows: int, length: int) -> Cache:
        """An empty cache of a canvas [n_rows, length]."""
        ...

    def hidden_window(
        self, x: Tensor, start: int, cache: Cache, is_valid: Tensor | None = None, columns: slice | None = None
    ) -> Tensor:
        """Tokens [B, W] from position `start` on -> hidden states [B, C, D] of the window's columns; updates the cache."""
        ...

    def head(self, h: Tensor) -> Tensor:
        """Hidden states [..., D] -> logits [..., V]."""
        ...
