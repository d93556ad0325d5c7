"""iLLaDA's objective, for pre-training and for fine-tuning alike."""

from illada_lab.data.batch import Batch
from illada_lab.diffusion.nelbo import nelbo, per_token
from illada_lab.diffusion.randomness import RowRandom
from illada_lab.diffusion.schedule import LinearSchedule, Schedule
from illada_lab.diffusion.times import StratifiedTimes, Times
from illada_lab.models.mask_predictor import MaskPredictor
from illada_lab.objectives.corruption import corrupt
from illada_lab.objectives.loss import Loss, cross_entropy_at, spread
from illada_lab.objectives.shorten import Shorten


class Pretrain:
    """The masked diffusion bound over whole sequences: masks fall anywhere.

        L = E_t E_xt [ (1/t) sum_i 1[xt^i = MASK] -log p(x0^i | xt) ] / (number of tokens)

    iLLaDA's fine-tuning is the same objective on packed instruction data: prompt, answer and EOS are all masked.

    Args:
        schedule: masking probability and weight; None: linear, 1/t.
        times: how t is drawn; None: stratified.
        shorten: shorter sequences (`RandomCut`, `RandomLength`), or None.

    Source: iLLaDA, objective, pre-training and fine-tuning recipes.
    """

    def __init__(
        self, *, schedule: Schedule | None = None, times: Times | None = None, shorten: Shorten | None = None
    ) -> None:
        self.schedule = schedule or LinearSchedule()
        self.times = times or StratifiedTimes()
        self.shorten = shorten

    def __call__(self, predictor: MaskPredictor, batch: Batch, random: RowRandom) -> Loss:
        """Bound in nats per token, averaged over all tokens of the batch."""
        segment_ids = batch.segment_ids if self.shorten is None else self.shorten(batch.segment_ids, random)
        is_maskable = segment_ids > 0
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
