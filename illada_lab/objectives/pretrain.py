"""iLLaDA's objective, for pre-training and for fine-tuning alike."""

from typing import ClassVar

from illada_lab.data.batch import Batch
from illada_lab.diffusion.nelbo import nelbo, per_token
from illada_lab.diffusion.randomness import RowRandom
from illada_lab.diffusion.schedule import LinearSchedule, Schedule
from illada_lab.diffusion.times import StratifiedTimes, Times
from illada_lab.models.protocol import HiddenPredictor
from illada_lab.objectives.corruption import corrupt
from illada_lab.objectives.loss import Loss, bound_told, cross_entropy_at, spread
from illada_lab.objectives.shorten import Shorten


class Pretrain:
    """The masked diffusion bound over whole sequences: masks fall anywhere.

        L = E_t E_xt [ (1/t) sum_i 1[xt^i = MASK] -log p(x0^i | xt) ] / (number of tokens)

    iLLaDA's fine-tuning is the same objective on packed instruction data: prompt, answer and EOS are all masked.

    Args:
        schedule: masking probability and weight; None: linear, 1/t.
        times: how t is drawn; None: stratified.
        shorten: shorter sequences (`RandomCut`, `RandomLength`), or None.
        is_bos_maskable: mask BOS like any other token. By default it stays: it carries no information, and it is the anchor without
            which a bidirectional RoPE model sees the same thing at every position of a fully masked sequence and must predict the
            same distribution everywhere. At 8192 tokens that is nothing, in a document of 30 tokens 1 to 2 nats (our choice: the
            paper does not say; its evaluation puts a visible BOS in front).

    Source: iLLaDA, objective, pre-training and fine-tuning recipes.
    """

    needs_causal: ClassVar[bool] = False

    def __init__(
        self,
        *,
        schedule: Schedule | None = None,
        times: Times | None = None,
        shorten: Shorten | None = None,
        is_bos_maskable: bool = False,
    ) -> None:
        self.schedule = schedule or LinearSchedule()
        self.times = times or StratifiedTimes()
        self.shorten = shorten
        self.is_bos_maskable = is_bos_maskable
        self.is_response_only = False

    @property
    def meaning(self) -> str:
        """What the loss is."""
        return f"{bound_told(self.schedule, self.times)}, nats per token"

    def __call__(self, predictor: HiddenPredictor, batch: Batch, random: RowRandom) -> Loss:
        """Bound in nats per token, averaged over all tokens of the batch."""
        segment_ids = batch.segment_ids if self.shorten is None else self.shorten(batch.segment_ids, random)
        is_maskable = segment_ids > 0
        if not self.is_bos_maskable and predictor.tokens.anchor is not None:
            is_maskable &= batch.tokens != predictor.tokens.anchor
        corrupted = corrupt(
            batch.tokens,
            segment_ids,
            is_maskable,
            mask=predictor.tokens.mask,
            schedule=self.schedule,
            times=self.times,
            random=random,
        )
        is_masked = corrupted.is_masked
        ce = cross_entropy_at(predictor, corrupted.xt, batch.tokens, is_masked, segment_ids)
        value = per_token(nelbo(spread(ce, is_masked), is_masked, corrupted.weight), is_maskable)
        return Loss(value=value, n_predicted=len(ce), n_tokens=int(is_maskable.sum()))
