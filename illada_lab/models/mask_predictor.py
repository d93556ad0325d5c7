"""The mask predictor: a bidirectional transformer that predicts every masked token at once."""

from dataclasses import asdict
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from illada_lab.models.cache import Cache, LayerCache
from illada_lab.models.head_loss import MAX_LOGITS, sliced_losses
from illada_lab.models.init import draw, initialise
from illada_lab.models.kernels import ATTENTION, Dense, Need, Sight, View, choose
from illada_lab.models.layer import Layer
from illada_lab.models.linear import Linear, linear
from illada_lab.models.norm import RMSNorm
from illada_lab.models.rope import rotary_table
from illada_lab.models.segments import PackedSegments
from illada_lab.models.spec import ModelSpec
from illada_lab.shapes import Logits, Positions, Segments, Tokens
from illada_lab.tokens import SpecialTokens

# Compiling the loss costs seconds; behind a smaller head than this it saves less than a hundredth of a step.
MIN_COMPILED_VOCABULARY = 2048


class MaskPredictor(nn.Module):
    """Transformer with full bidirectional attention and no time input: p(x0^i | xt) at every position i.

    The same class with `is_causal=True` is the autoregressive twin: equal in every parameter, attention looking backwards only,
    its output at position i read as the prediction of token i + 1.

    Two forward paths give the same numbers: padded rows (`hidden`, `__call__`) and packed segments (`hidden_packed`). The head is a
    call of its own, because it is applied only where a prediction is asked for: at a vocabulary of 155,136 one row of 8192
    float32 logits alone takes 4.7 GiB.

    Args:
        tokens: special tokens of the data this model is for.
        vocab_size, d_model, n_layers, n_heads, n_kv_heads, d_ffn, max_length, is_tied, rope_theta, norm_eps, has_qk_norm,
            is_causal, init_std: see `ModelSpec`.
        generator: randomness of the initial weights; None: torch's global generator.

    Raises:
        ValueError: sizes that do not fit together, or a special token outside of the vocabulary.

    Source: iLLaDA, section on the architecture and Table 1; module names as in the released checkpoints.
    """

    runtime_arguments: ClassVar[frozenset[str]] = frozenset({"tokens", "vocab_size", "generator"})

    def __init__(
        self,
        *,
        tokens: SpecialTokens,
        vocab_size: int,
        d_model: int,
        n_layers: int,
        n_heads: int,
        n_kv_heads: int,
        d_ffn: int,
        max_length: int,
        is_tied: bool = True,
        rope_theta: float = 10_000.0,
        norm_eps: float = 1e-6,
        has_qk_norm: bool = False,
        is_causal: bool = False,
        init_std: float = 0.02,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec = ModelSpec(
            vocab_size=vocab_size,
            d_model=d_model,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            d_ffn=d_ffn,
            max_length=max_length,
            is_tied=is_tied,
            rope_theta=rope_theta,
            norm_eps=norm_eps,
            has_qk_norm=has_qk_norm,
            is_causal=is_causal,
            init_std=init_std,
        )
        tokens.check(vocab_size)
        self.tokens = tokens
        self.embed_tokens = nn.Embedding(vocab_size, d_model)
        self.layers = nn.ModuleList(Layer(spec) for _ in range(n_layers))
        self.norm = RMSNorm(d_model, eps=norm_eps)
        self._token_losses, self._compiles_slices = _token_losses, False
        self.has_dynamic_layers: bool | None = False
        self._attention = "auto"
        self.lm_head = None if is_tied else Linear(d_model, vocab_size)
        if not self.embed_tokens.weight.is_meta:
            initialise(self, spec, generator)

    def draw_weight(self, name: str, weight: Tensor, generator: torch.Generator | None = None) -> None:
        """Give a parameter its initial values, in place. A subclass with parameters of its own overrides this for them.

        A run builds its model without memory and then draws one whole parameter after the other, whatever the constructor has put there.

        Args:
            name: of the parameter, as `named_parameters` has it.
            weight: of its shape.
            generator: source of randomness; None: torch's global one.

        Raises:
            ValueError: there is no rule for it.
        """
        draw(name, weight, self.spec, generator)

    @staticmethod
    def check_config(**values: Any) -> list[str]:
        """Problems of a set of constructor arguments, for `illada_lab.config.check`."""
        return ModelSpec.problems(values)

    def to_config(self) -> dict[str, Any]:
        """Constructor arguments but for `tokens`, as plain data for checkpoints."""
        return asdict(self.spec)

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        """Weight of the head, the embedding's where they are tied."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def forward(self, x: Tokens, is_valid: Positions | None = None) -> Logits:
        """Logits at every position of padded rows.

        Args:
            x: tokens, some of them [MASK].
            is_valid: positions that may be attended to; None: all. Logits at the others mean nothing.

        Raises:
            ValueError: rows longer than `max_length`.
        """
        return self.head(self.hidden(x, is_valid=is_valid))

    def logits_at(self, x: Tokens, is_wanted: Positions, is_valid: Positions | None = None) -> Float[Tensor, "M V"]:
        """Logits at the wanted positions only, in row-major order: `self(x, is_valid)[is_wanted]` at less cost."""
        is_column = is_wanted.any(0).nonzero()[:, 0].tolist()
        columns = slice(is_column[0], is_column[-1] + 1) if is_column else slice(0, x.shape[1])
        return self.head(self.hidden(x, is_valid=is_valid, columns=columns)[is_wanted[:, columns]])

    def hidden(
        self,
        x: Tokens,
        is_valid: Positions | None = None,
        segment_ids: Segments | None = None,
        columns: slice | None = None,
    ) -> Float[Tensor, "B C D"]:
        """Last hidden states of padded rows, ready for `head`.

        Args:
            x: tokens.
            is_valid: positions that may be attended to.
            segment_ids: finer than `is_valid` (give one of the two): positions see their own segment only.
            columns: wanted ones, C of them; None: all. The last layer computes these only.

        Raises:
            ValueError: rows longer than `max_length`, or both `is_valid` and `segment_ids`.
        """
        self._check_length(x.shape[1])
        if is_valid is not None and segment_ids is not None:
            raise ValueError(
                "is_valid; has no effect beside segment_ids, which are 0 at what cannot be attended to; one of the two"
            )
        if segment_ids is None and is_valid is not None:
            segment_ids = is_valid.long()
        elif segment_ids is None and columns is not None and self.spec.is_causal:
            segment_ids = torch.ones_like(x)  # fewer queries than keys: "causal" alone would not say which queries
        # Positions count along the row, also in its later segments: RoPE sees differences only.
        sight = Sight(segment_ids, self._causal_block)
        return self._layers(x, torch.arange(x.shape[1], device=x.device), sight, columns)

    def new_cache(self, n_rows: int, length: int) -> Cache:
        """An empty cache for rows of a length; `hidden_window` over all positions fills it.

        Raises:
            ValueError: the autoregressive twin, whose cache would be another one, or rows longer than the context.
        """
        if self.spec.is_causal:
            raise ValueError("cache; the autoregressive twin has no use for a cache of a whole canvas; cache=null")
        self._check_length(length)
        weight, dtype = self.embed_tokens.weight, self._dtype
        shape = (n_rows, self.spec.n_kv_heads, length, self.spec.head_size)
        # Uninitialised: the first pass writes every position before anything is read.
        return Cache(
            [
                LayerCache(weight.new_empty(shape, dtype=dtype), weight.new_empty(shape, dtype=dtype))
                for _ in self.layers
            ]
        )

    def hidden_window(
        self,
        x: Int[Tensor, "B W"],
        start: int | Tensor,
        cache: Cache,
        is_valid: Bool[Tensor, "B L"] | None = None,
        columns: slice | None = None,
    ) -> Float[Tensor, "B C D"]:
        """Last hidden states of a window of the canvas; what lies outside of it is read from the cache, not computed.

        Args:
            x: tokens of the window; positions `start` to `start + W` of the canvas.
            start: first position; int64 [] on the model's device where the pass is recorded.
            cache: of the whole canvas; the window's part is replaced. With a window over the whole canvas this is a full pass.
            is_valid: positions of the canvas that may be attended to; None: all.
            columns: of the window, C of them, that are wanted; None: all. The last layer computes these only.
        """
        positions = start + torch.arange(x.shape[1], device=x.device)
        view = Dense(None if is_valid is None else is_valid[:, None, None, :])
        table = rotary_table(positions, self.spec.head_size, self.spec.rope_theta)
        h = self.embed_tokens(x)
        for number, (layer, kept) in enumerate(zip(self.layers, cache.layers, strict=True), start=1):
            h = layer(h, table, view, kept, start, columns if number == len(self.layers) else None)
        return self.norm(h)

    def hidden_packed(self, x: Int[Tensor, " N"], segments: PackedSegments) -> Float[Tensor, "N D"]:
        """Last hidden states of packed segments, which do not see each other.

        Args:
            x: tokens of all segments, one after the other.
            segments: where they lie.

        Raises:
            ValueError: a segment longer than `max_length`, or offsets that do not end at N.
        """
        self._check_length(segments.max_length)
        if int(segments.offsets[-1]) != x.shape[0]:
            raise ValueError(
                f"cu_seqlens[-1] = {int(segments.offsets[-1])}; must be the number of tokens; {x.shape[0]}"
            )
        return self._layers(x[None], segments.positions, Sight.of_packed(segments, self._causal_block))[0]

    def forward_packed(self, x: Int[Tensor, " N"], cu_seqlens: Int[Tensor, " S_plus_1"]) -> Float[Tensor, "N V"]:
        """Logits of packed segments given by their offsets, as `forward` gives them for padded rows."""
        return self.head(self.hidden_packed(x, PackedSegments(cu_seqlens.long())))

    def head(self, h: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Logits of hidden states."""
        return linear(h, self.head_weight)

    def token_losses(self, h: Float[Tensor, "M D"], targets: Int[Tensor, " M"]) -> Float[Tensor, " M"]:
        """-log p(target) in nats of hidden states; float32 whatever the precision of the head's product.

        Never more than `MAX_LOGITS` logits in memory: where there would be more, they are computed in slices and not kept.
        """
        if len(targets) * self.spec.vocab_size <= MAX_LOGITS:
            return self._token_losses(h, self.head_weight, targets)
        # On a CPU the products take so long that nothing is gained.
        is_compiled = self._compiles_slices and h.is_cuda
        return sliced_losses(h, self.head_weight, targets, is_compiled=is_compiled)

    def compile_parts(self, *, has_fixed_length: bool = True) -> None:
        """Let `torch.compile` work on the layers, for the shapes they see, and on the loss behind a large head, for any shape.

        Args:
            has_fixed_length: rows are of one length. Otherwise the layers are compiled for any, as soon as a second one comes: shape by
                shape, torch would go on without compiling after eight.
        """
        self.has_dynamic_layers = False if has_fixed_length else None
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.compile(dynamic=self.has_dynamic_layers)
        if self.spec.vocab_size >= MIN_COMPILED_VOCABULARY:
            self._token_losses = torch.compile(_token_losses, dynamic=True)
            self._compiles_slices = True

    def use_attention(self, name: str) -> None:
        """Choose the attention kernel of full passes; it changes speed and memory, not what is computed, so no checkpoint holds it.

        Where only some columns are wanted (`hidden`, `logits_at`) the last layer has fewer queries than keys: plain where "plain" is
        chosen, otherwise sdpa. So has a pass over a window every layer, which is sdpa whatever is chosen.

        Args:
            name: one of `kernels.ATTENTION`; "auto", as at first: the fastest that runs where the batch is.

        Raises:
            ValueError: there is no such kernel.
        """
        if name not in ATTENTION:
            raise ValueError(f"attention = {name}; there is no such kernel; one of {', '.join(ATTENTION)}")
        self._attention = name

    @property
    def _causal_block(self) -> int | None:
        return 1 if self.spec.is_causal else None

    @property
    def _dtype(self) -> torch.dtype:
        """Precision of queries, keys and values: the weights', or autocast's."""
        weight = self.embed_tokens.weight
        device = weight.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype

    def _view(self, sight: Sight, device: torch.device) -> View:
        need = Need(device, self._dtype, self.spec.head_size, sight.causal_block, torch.is_grad_enabled())
        return choose(self._attention, need).view(sight)

    def _layers(self, x: Tensor, positions: Tensor, sight: Sight, columns: slice | None = None) -> Tensor:
        table = rotary_table(positions, self.spec.head_size, self.spec.rope_theta)
        view = self._view(sight, x.device)
        h = self.embed_tokens(x)
        *first, last = self.layers
        for layer in first:
            h = layer(h, table, view)
        if columns is not None:
            view = Dense.of_columns(sight, columns, is_plain=self._attention == "plain")
        return self.norm(last(h, table, view, columns=columns))

    def _check_length(self, length: int) -> None:
        if length > self.spec.max_length:
            raise ValueError(f"length = {length}; longer than the model's context; at most {self.spec.max_length}")


def _token_losses(h: Tensor, head_weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(linear(h, head_weight).float(), targets, reduction="none")
