"""Predictors whose answers are known."""

import torch

from illada_lab.tokens import ILLADA, SpecialTokens


class Scripted:
    """Wants one given text: at each masked position the right token, the surer the earlier it stands in `order`.

    Counts its calls and checks what it is asked.

    Args:
        text: token at every position of the canvas.
        order: positions from surest to least sure; None: left to right.
    """

    def __init__(
        self, text: list[int], order: list[int] | None = None, vocab_size: int = 24, tokens: SpecialTokens = ILLADA
    ):
        self.text, self.tokens, self.vocab_size = torch.tensor(text), tokens, vocab_size
        rank = {position: i for i, position in enumerate(order or range(len(text)))}
        self.sureness = torch.tensor([8.0 - 0.1 * rank.get(i, len(text)) for i in range(len(text))])
        self.n_calls, self.n_masks_seen = 0, []

    def __call__(self, x, is_valid=None):
        self.n_calls += 1
        self.n_masks_seen.append(int((x == self.tokens.mask).sum()))
        logits = torch.zeros(*x.shape, self.vocab_size)
        length = x.shape[1]
        logits.scatter_(
            2, self.text[:length].expand(len(x), -1)[..., None], self.sureness[:length].expand(len(x), -1)[..., None]
        )
        return logits
