"""Small things that many tests need."""

import torch

from illada_lab.data.batch import Batch
from illada_lab.models import MaskPredictor
from illada_lab.samplers.noise import Noise, RowNoise
from illada_lab.tokens import ILLADA

SIZES = dict(vocab_size=24, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ffn=48, max_length=64)


def small_predictor(seed: int = 0, **changes) -> MaskPredictor:
    """A random mask predictor whose predictions are far from uniform."""
    sizes = {**SIZES, "init_std": 0.3, **changes}
    return MaskPredictor(tokens=ILLADA, generator=torch.Generator().manual_seed(seed), **sizes).eval()


def random_batch(n_rows: int = 4, length: int = 16, seed: int = 0, vocab_size: int = 24) -> Batch:
    """Rows of two segments and some padding; the first third of each row is prompt."""
    generator = torch.Generator().manual_seed(seed)
    position = torch.arange(length)
    segment_ids = torch.where(position < length // 2, 1, 2).masked_fill(position >= length - 2, 0)
    return Batch(
        tokens=torch.randint(7, vocab_size, (n_rows, length), generator=generator),
        segment_ids=segment_ids.expand(n_rows, length).clone(),
        is_prompt=(position < length // 3).expand(n_rows, length).clone(),
        index=torch.arange(n_rows),
    )


def noise_of(n: int, seed: int = 0) -> Noise:
    """Noise of n predictions of one row, at n positions."""
    rows = torch.zeros(n, dtype=torch.long)
    return RowNoise.start(torch.Generator().manual_seed(seed), 1).at(rows, rows, torch.arange(n))


class UniformPredictor(torch.nn.Module):
    """Knows nothing: the same logit for every token. Offers what objectives and samplers use."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens, self.vocab_size = ILLADA, vocab_size
        self.head_weight = torch.zeros(vocab_size, 2)

    def forward(self, x, is_valid=None):
        return torch.zeros(*x.shape, self.vocab_size)

    def hidden(self, x, is_valid=None, segment_ids=None):
        return torch.ones(*x.shape, 2)

    def token_losses(self, h, targets):
        return torch.nn.functional.cross_entropy(h @ self.head_weight.T, targets, reduction="none")
