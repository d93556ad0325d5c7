"""LLaDA's fine-tuning objective: the prompt stays visible."""

from typing import ClassVar

from illada_lab.data.batch import Batch
from illada_lab.diffusion.nelbo import nelbo
from illada_lab.diffusion.randomness import RowRandom
from illada_lab.diffusion.schedule import LinearSchedule, Schedule
from illada_lab.diffusion.times import StratifiedTimes, Times
from illada_lab.models.protocol import HiddenPredictor
from illada_lab.objectives.corruption import corrupt
from illada_lab.objectives.loss import Loss, bound_told, cross_entropy_at, spread


class ResponseOnly:
    """The bound over the response only; the prompt is never masked.

    One example per row. Each row's bound is divided by its response length (EOS padding of the batch included, which is how EOS is
    learnt as padding), then averaged over the rows.

    Args:
        schedule: masking probability and weight; None: linear, 1/t.
        times: how t is drawn; None: stratified.

    Source: LLaDA, fine-tuning (section 2.3 and its published guideline code).
    """

    needs_causal: ClassVar[bool] = False

    def __init__(self, *, schedule: Schedule | None = None, times: Times | None = None) -> None:
        self.schedule = schedule or LinearSchedule()
        self.times = times or StratifiedTimes()
        self.is_response_only = True

    @property
    def meaning(self) -> str:
        """What the loss is."""
        return f"{bound_told(self.schedule, self.times)} of each response, nats per token of it (padding is counted), as a mean over rows"

    def __call__(self, predictor: HiddenPredictor, batch: Batch, random: RowRandom) -> Loss:
        """Mean over rows of the bound in nats per response token.

        Raises:
            ValueError: a row has no response.
        """
        is_maskable = batch.is_valid & ~batch.is_prompt
        n_response = is_maskable.sum(1)
        if not bool((n_response > 0).all()):
            raise ValueError(
                f"sample = {int(batch.index[n_response == 0][0])}; it has no response token to learn from; "
                "drop it, or fine-tune with objective=sft"
            )
        corrupted = corrupt(
            batch.tokens,
            batch.segment_ids,
            is_maskable,
            mask=predictor.tokens.mask,
            schedule=self.schedule,
            times=self.times,
            random=random,
        )
        is_masked = corrupted.is_masked
        ce = cross_entropy_at(predictor, corrupted.xt, batch.tokens, is_masked, batch.segment_ids)
        value = (nelbo(spread(ce, is_masked), is_masked, corrupted.weight) / n_response).mean()
        return Loss(value=value, n_predicted=len(ce), n_tokens=int(n_response.sum()), n_averaged=len(n_response))
