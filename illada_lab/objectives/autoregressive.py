"""The baseline: next-token prediction with the autoregressive twin."""

from typing import ClassVar

import torch

from illada_lab.data.batch import Batch
from illada_lab.diffusion.randomness import RowRandom
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.objectives.loss import Loss, cross_entropy_at
from illada_lab.shapes import Segments, Tokens


def shift_right(x: Tokens, segment_ids: Segments, bos: int) -> Tokens:
    """Inputs of the twin: every token moves one place on, BOS stands at the head of each segment.

    So the twin, too, predicts the token *at* a position, from what stands before it, and the first token of a segment has a
    probability: the chain rule gives -log p(x0) exactly.

    Args:
        x: clean tokens.
        segment_ids: segments; a segment starts where the id changes.
        bos: id put at the head of a segment.
    """
    shifted = torch.cat((torch.full_like(x[:, :1], bos), x[:, :-1]), dim=1)
    is_start = torch.ones_like(x, dtype=torch.bool)
    is_start[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    return torch.where(is_start, bos, shifted)


class Autoregressive:
    """Mean of -log p(x0^i | x0^<i) in nats per token: exact, where the diffusion value is a bound.

    Args:
        is_response_only: leave the prompt's tokens out of the loss (they stay visible).
        input_mask_probability: that a token the twin reads is hidden behind [MASK] in training, BOS excepted; all are predicted all the
            same. Above 0 the loss is no longer -log p: a regulariser, whose model is validated on clean texts.

    Raises:
        ValueError: a probability outside of 0 to below 1.

    Source: the baseline of LLaDA's and iLLaDA's comparisons (ARM); the shift with BOS is our choice, see `shift_right`; input masking:
        arXiv 2511.03276 (a tenth of the tokens), the control for the repetition of data.
    """

    needs_causal: ClassVar[bool] = True

    def __init__(self, *, is_response_only: bool = False, input_mask_probability: float = 0.0) -> None:
        if not 0 <= input_mask_probability < 1:
            raise ValueError(
                f"input_mask_probability = {input_mask_probability}; the share of the inputs that is hidden; 0 to below 1"
            )
        self.is_response_only, self.input_mask_probability = is_response_only, input_mask_probability

    @property
    def meaning(self) -> str:
        """What the loss is."""
        if self.input_mask_probability:
            return f"-log p with {self.input_mask_probability:.0%} of what is read hidden, nats per token: above that of clean texts"
        return "-log p, exact, nats per token"

    def __call__(self, predictor: MaskPredictor, batch: Batch, random: RowRandom) -> Loss:
        """Loss in nats per predicted token; `random` decides which inputs are hidden, where some are.

        Raises:
            ValueError: the predictor is not causal (it would see the answers), or there is no BOS or nothing to predict.
        """
        if not predictor.spec.is_causal:
            raise ValueError("model.is_causal = False; objective=autoregressive would see its own targets; true")
        if predictor.tokens.bos is None:
            raise ValueError("tokens.bos = null; the twin starts every segment with it; a token id")
        is_wanted = batch.is_valid & ~batch.is_prompt if self.is_response_only else batch.is_valid
        if predictor.tokens.anchor is not None:  # given, as for the diffusion model
            is_wanted = is_wanted & (batch.tokens != predictor.tokens.anchor)
        inputs = shift_right(batch.tokens, batch.segment_ids, predictor.tokens.bos)
        if self.input_mask_probability:
            is_hidden = random.uniform(inputs.shape[1]) < self.input_mask_probability
            inputs = torch.where(is_hidden & (inputs != predictor.tokens.bos), predictor.tokens.mask, inputs)
        ce = cross_entropy_at(predictor, inputs, batch.tokens, is_wanted, batch.segment_ids)
        if not len(ce):
            raise ValueError("batch; no token to predict in it; rows with an answer, or is_response_only: false")
        return Loss(value=ce.mean(), n_predicted=len(ce), n_tokens=len(ce))
