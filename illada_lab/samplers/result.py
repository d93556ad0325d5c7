"""What a sampler returns."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor


@dataclass
class Sampled:
    """Generated sequences and how they came about.

    Attributes:
        tokens: prompt and response, int64 [B, P + R]; where the length varies, the EOS or end of turn that ended a row, and the
            filler id behind that.
        responses: the response of each row up to its end, without what stopped it.
        stop_reasons: "eos", "stop" (a stop sequence), "length" or "filled" (infilling) for each row.
        nfe: predictor passes of each row.
        token_forwards: positions computed for each row.
        trace: one record per revealed token: step, row, position (in the response), token, confidence, runner_up,
            runner_up_confidence, nfe. Plain data: a line of JSON each.
        n_steps: reverse steps taken.
    """

    tokens: Int[Tensor, "B L"]
    responses: list[list[int]]
    stop_reasons: list[str]
    nfe: Int[Tensor, " B"]
    token_forwards: Int[Tensor, " B"]
    trace: list[dict[str, Any]]
    n_steps: int
