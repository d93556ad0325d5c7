"""Asking the predictor at masked positions: with classifier-free guidance and with a cache where wanted."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from illada_lab.models.cache import Cache
from illada_lab.models.protocol import CachingPredictor, Predictor
from illada_lab.shapes import Positions, Tokens

# What sampling and scoring say of such logits.
NO_NUMBERS = "logits = NaN; what the predictor says at a mask is no distribution; weights and guidance that are finite"


@dataclass
class Asker:
    """A predictor asked only where it matters, which counts what it is asked.

    With guidance s > 0: uncond + (1 + s) (cond - uncond), where "uncond" sees masked what was given (`is_prompt`); in variable-length
    generation the blocks before too, in a response of fixed length not, as published of each. Counts 2 passes.

    With a cache the first pass of a block computes the whole canvas and the others only a part of it:

    - prefix: the block and everything behind it;
    - dual: the block alone.

    What is not computed keeps the keys and values of the last full pass, an approximation while the block changes.

    Args:
        predictor: the model.
        guidance_scale: s; 0 is off.
        nfe: predictor passes of each row so far.
        cache: "prefix", "dual", or None: every pass computes everything.
        refresh_every: a full pass every so many steps inside a block too; None: at block borders only; 1: always, exact.
        token_forwards: positions computed for each row so far.

    Raises:
        ValueError: a guidance scale out of range, a cache asked of a predictor that has none.

    Source: LLaDA, Appendix on classifier-free guidance (its published code has the same convention); Fast-dLLM, Algorithm 1.
    """

    predictor: Predictor
    guidance_scale: float
    nfe: Int[Tensor, " B"]
    cache: str | None = None
    refresh_every: int | None = None
    token_forwards: Int[Tensor, " B"] = field(init=False)
    _kept: "dict[bool, _Kept]" = field(init=False, default_factory=dict)
    _n_asked: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.token_forwards = torch.zeros_like(self.nfe)
        if not 0 <= self.guidance_scale < math.inf:
            raise ValueError(f"guidance_scale = {self.guidance_scale}; must be finite; 0 (off) or more")
        if self.cache is not None and not isinstance(self.predictor, CachingPredictor):
            raise ValueError(
                f"cache = {self.cache}; {type(self.predictor).__name__} keeps no keys and values; cache=null"
            )

    def enter_block(self) -> None:
        """The window has moved: the next pass is a full one."""
        self._kept, self._n_asked = {}, 0

    def logits_at(
        self,
        x: Tokens,
        is_wanted: Bool[Tensor, "b L"],
        is_valid: Positions | None,
        is_prompt: Positions,
        rows: Int[Tensor, " b"],
        window: slice | None = None,
    ) -> Float[Tensor, "M V"]:
        """Logits at the wanted positions, row by row.

        Args:
            x: the canvas of the rows asked for.
            is_wanted: where; inside of the window.
            is_valid: attendable positions.
            is_prompt: positions that guidance masks.
            rows: number of each row in the whole batch, for counting and for the cache.
            window: columns of the block; with a cache only.
        """
        is_full = self.cache is None or self._n_asked % (self.refresh_every or 1 << 60) == 0
        self._n_asked += 1
        start, stop = 0, x.shape[1]
        if not is_full:
            assert window is not None, "a cache belongs to a block"
            start, stop = window.start, stop if self.cache == "prefix" else window.stop
        computed = slice(start, stop)
        logits = self._ask(x, is_wanted, is_valid, rows, computed, window, is_blind=False)
        passes = 1
        if self.guidance_scale:
            blind = torch.where(is_prompt, self.predictor.tokens.mask, x)
            without = self._ask(blind, is_wanted, is_valid, rows, computed, window, is_blind=True)
            guided = without + (1 + self.guidance_scale) * (logits - without)
            # What one of the two rules out altogether has no difference: what the question says about it stands. NaN of either stays
            # NaN, which whoever asked looks for.
            logits = torch.where(logits.isinf() | without.isinf(), logits, guided)
            passes = 2
        self.nfe[rows] += passes
        self.token_forwards[rows] += passes * (stop - start)
        return logits

    def _ask(
        self,
        x: Tensor,
        is_wanted: Tensor,
        is_valid: Tensor | None,
        rows: Tensor,
        computed: slice,
        window: slice | None,
        *,
        is_blind: bool,
    ) -> Tensor:
        """One pass over the computed columns, for logits inside of the window."""
        predictor = self.predictor
        if self.cache is None:
            at = getattr(predictor, "logits_at", None)
            return predictor(x, is_valid)[is_wanted] if at is None else at(x, is_wanted, is_valid)
        assert isinstance(predictor, CachingPredictor)
        if is_blind not in self._kept:
            self._kept[is_blind] = _Kept(predictor.new_cache(*x.shape), rows)
        kept = self._kept[is_blind]
        kept.keep(rows)
        window = computed if window is None else window
        columns = slice(window.start - computed.start, window.stop - computed.start)
        h = predictor.hidden_window(x[:, computed], computed.start, kept.cache, is_valid, columns)
        return predictor.head(h[is_wanted[:, window]])


@dataclass
class _Kept:
    """A cache and the rows it is of. Inside a block rows finish and never come back, so it only ever shrinks."""

    cache: Cache
    rows: Tensor

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows."""
        if len(rows) != len(self.rows):
            chosen = torch.isin(self.rows, rows).nonzero()[:, 0]
            self.cache, self.rows = self.cache.rows(chosen), rows
