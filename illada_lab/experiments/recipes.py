"""Three recipes at equal size and equal data: iLLaDA's, LLaDA's and the autoregressive twin's, pre-trained and fine-tuned.

| | iLLaDA's recipe | LLaDA's recipe | autoregressive twin |
|---|---|---|---|
| attention | grouped queries | one key/value head per query head | grouped queries, backwards only |
| feed-forward part | wide | narrower, so that both have the same non-embedding size | wide |
| embedding and head | tied | untied | tied |
| masking probability | t | from 0.001 in pre-training | - |
| shorter sequences | the scale's random cuts (toy, mini: none; paper: 30 %) | 1 % of the rows at a random length | the scale's |
| learning rate | constant, then cosine | constant, then linear over the last 13 % | constant, then cosine |
| fine-tuning | whole sequence | response only, padded with EOS | response only |
| EOS behind an answer (ours) | 0 to 7 more | 0 to 7 more, and the padding | one |
| answers | variable length, blocks of 8 | fixed length of 24, blocks of 8 | greedy |
| multiple choice | confidence score | Monte-Carlo likelihood | exact likelihood |

Data, optimiser, peak rate, steps and rows per step are those of the scale in all of them.

Source: iLLaDA, Table 1 and recipes; LLaDA (arXiv 2502.09992), section 2 and Appendix B; what the papers leave open is the main job's.
"""

from typing import Any

from illada_lab.config import build
from illada_lab.experiments.lab import Lab, Trained
from illada_lab.experiments.twin import TWIN_SFT, twin_of

ILLADA, LLADA, TWIN = "iLLaDA's recipe", "LLaDA's recipe", "autoregressive twin"
# Of the 2.3T tokens of LLaDA the last 0.3T have a linear decay to 1e-5, from a peak of 4e-4. The drop to 1e-4 in between was made
# by hand after a NaN, and is left out.
DECAY_START, MIN_RATIO = 0.87, 0.025


def base_models(lab: Lab) -> dict[str, Trained]:
    """The three pre-trained models."""
    return {ILLADA: lab.pretrained, LLADA: llada_of(lab), TWIN: twin_of(lab)}


def instruct_models(lab: Lab) -> dict[str, Trained]:
    """The three fine-tuned models, after as many steps; both diffusion models have seen the same instructions as often.

    The twin's rows hold no extra EOS (greedy decoding needs one), so they hold more instructions: at toy scale 76 a step, where
    the others have 63. That is in the twin's favour.
    """
    base = base_models(lab)
    return {
        ILLADA: lab.tuned,
        LLADA: response_only(lab, base[LLADA], "llada-sft", *llada_model(lab)),
        TWIN: lab.train_from(base[TWIN], "autoregressive-sft", *TWIN_SFT),
    }


def llada_of(lab: Lab) -> Trained:
    """LLaDA's architecture and pre-training recipe at this scale."""
    return lab.train(
        "llada",
        *llada_model(lab),
        "objective.schedule.min_probability=0.001",
        "objective.shorten._target_=illada_lab.objectives.RandomLength",
        "objective.shorten.probability=0.01",
        "lr=constant_linear",
        f"lr.decay_start={DECAY_START}",
        f"lr.min_ratio={MIN_RATIO}",
    )


def llada_model(lab: Lab) -> list[str]:
    """LLaDA's choices in Table 1, at the non-embedding size of the scale's own model."""
    return [
        "model.n_kv_heads=${model.n_heads}",
        f"model.d_ffn={multi_head_ffn(lab.config().model)}",
        "model.is_tied=false",
    ]


def multi_head_ffn(model: Any) -> int:
    """Inner width at which a model with as many key/value as query heads is as large as the given one without embeddings.

    Args:
        model: sizes with n_heads, n_kv_heads, d_model, d_ffn; iLLaDA's give LLaDA's 12,288.
    """
    head_size = model.d_model // model.n_heads
    # A key/value head more: two matrices of d_model x head_size; a unit of the inner width: three rows of d_model.
    return model.d_ffn - round(2 * head_size * (model.n_heads - model.n_kv_heads) / 3)


def response_only(lab: Lab, start: Trained, name: str, *overrides: str) -> Trained:
    """LLaDA's fine-tuning of a model, with as many instructions per step as the whole-sequence format packs into its rows."""
    module = build(lab.config("experiment=sft").data)
    module.prepare(start.model.tokenizer)
    n_per_step = max(1, round(module.source.n_documents / module.steps_per_epoch))
    return lab.train_from(
        start,
        name,
        "experiment=sft_response_only",
        *overrides,
        f"data.batch_size={n_per_step}",
        "data.micro_batch_size=null",
    )
