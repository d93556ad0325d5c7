"""The autoregressive twin at work: likelihoods and the next word, for comparisons with the diffusion model."""

from collections.abc import Sequence

import torch

from illada_lab.data.tokenizer import Tokenizer
from illada_lab.experiments.lab import Lab, Trained
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.objectives.autoregressive import shift_right


def twin_of(lab: Lab) -> Trained:
    """The main job's network with causal attention: same data, steps and optimiser."""
    return lab.train("autoregressive", "experiment=autoregressive")


@torch.no_grad()
def log_probabilities(predictor: MaskPredictor, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Log-probabilities of the next token at every position of texts of equal length, float64 [B, L, V].

    Position i holds the distribution of token i given those before it; BOS in front of the first is put there as in training.
    """
    x = torch.tensor([list(text) for text in texts])
    bos = predictor.tokens.bos
    assert bos is not None, "our own tokenizers have a BOS"
    return predictor(shift_right(x, torch.ones_like(x), bos)).double().log_softmax(-1)


def log_likelihoods(predictor: MaskPredictor, texts: Sequence[Sequence[int]]) -> list[float]:
    """log p of each text (BOS in front not counted), nats; texts of equal length."""
    log_p = log_probabilities(predictor, texts)
    x = torch.tensor([list(text) for text in texts])
    of_token = log_p.gather(2, x[..., None])[..., 0]
    return of_token.masked_fill(x == predictor.tokens.bos, 0.0).sum(1).tolist()


def next_word(predictor: MaskPredictor, tokenizer: Tokenizer, prompt: Sequence[int]) -> str:
    """The likeliest word behind a prompt."""
    log_p = log_probabilities(predictor, [[*prompt, predictor.tokens.filler]])
    return tokenizer.token_text(int(log_p[0, -1].argmax()))
