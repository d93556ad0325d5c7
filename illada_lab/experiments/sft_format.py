"""Fine-tuning format: iLLaDA masks whole packed sequences, LLaDA the response only, padded with EOS."""

from typing import ClassVar

from illada_lab.experiments.asking import STORY_TOKENS, ask, question_task
from illada_lab.experiments.claims import Claim
from illada_lab.experiments.lab import Lab
from illada_lab.experiments.recipes import response_only
from illada_lab.experiments.sampling import KINDS, WHOLE
from illada_lab.experiments.study import Outcome
from illada_lab.samplers import FixedLength, VariableLength

RESPONSE = "response only (LLaDA)"


class SftFormat:
    """The same pre-trained model, instructions as often, steps and rate; the format alone differs.

    Behind an answer stand 0 to 7 EOS more than the papers have, in both. Whole sequences end their answers inside a block by them (see
    the README). Without them all padded rows are as long as the longest example, 40 tokens at toy, and a window of 24 behind its prompt
    of 23 is longer than what the model has ever seen (`results/tried.md`).

    Args:
        n_questions: all kinds together.
    """

    title: ClassVar[str] = "Fine-tuning format: whole sequence or response only"
    trains_many: ClassVar[bool] = False
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(id="variable", sentence="At variable length, whole-sequence fine-tuning answers better than response-only.",
              source="iLLaDA, fine-tuning (changed from LLaDA's, not ablated)", paper="GSM8K 89.0 against 77.5 (all changes together)",
              metric="questions, variable length, blocks of 8: exact match, whole sequence less response only", unit="points",
              smallest=0.02),
        Claim(id="own_way", sentence="Each read out in its own way, whole-sequence fine-tuning answers better than response-only.",
              source="iLLaDA, fine-tuning and inference (changed from LLaDA's together); asked after the measurement, of its tables",
              paper="GSM8K 89.0 against 77.5 (all changes together)",
              metric="questions: exact match, whole sequence at variable length less response only at a fixed length of 24, blocks of 8",
              unit="points", smallest=0.02),
        Claim(id="eos", sentence="EOS padding makes a model end answers before they begin.",
              source="LLaDA, Appendix B.4", paper="described; EOS confidence set to 0 for it",
              metric="empty answers in one block of 24, response only less whole sequence", unit="points", smallest=0.02),
        Claim(id="blocks", sentence="Filling block by block helps a fine-tuned model, which is sure of EOS too early.",
              source="LLaDA (arXiv 2502.09992), Appendix B.4",
              paper="GSM8K 77.5 in blocks of 32 against 69.4 in one, there with EOS last (LLaDA 8B Instruct)",
              metric="questions, model fine-tuned on responses padded with EOS: exact match, blocks of 8 less one block of 24",
              unit="points", smallest=0.02),
        Claim(id="variable_padded", sentence="A model fine-tuned to pad answers with EOS loses nothing at variable length.",
              source="our question, asked after the measurement, of its tables: variable length needs its own format", paper="not reported",
              metric="questions, model fine-tuned on responses padded with EOS: exact match, variable less fixed length, blocks of 8",
              unit="points", threshold=-0.02),
    )  # fmt: skip

    def __init__(self, *, n_questions: int) -> None:
        self.n_questions = n_questions

    def run(self, lab: Lab) -> Outcome:
        """See `Study`."""
        models = {
            WHOLE: lab.tuned.model,
            RESPONSE: response_only(lab, lab.pretrained, "sft_response_only").model,
        }
        samplers = {
            "variable, blocks of 8": VariableLength(max_length=STORY_TOKENS, block_length=8),
            "fixed 24, blocks of 8": FixedLength(response_length=STORY_TOKENS, block_length=8),
            "fixed 24, one block": FixedLength(response_length=STORY_TOKENS),
            "fixed 24, one block, EOS last": FixedLength(response_length=STORY_TOKENS, defer_eos=True),
        }
        rows = []
        for name, model in models.items():
            task = question_task(lab.world, model, KINDS, self.n_questions, lab.seed)
            for how, sampler in samplers.items():
                rows.append(ask(model, task, sampler, lab.seed).row(format=name, sampler=how))
        at = {(row["format"], row["sampler"]): row for row in rows}
        variable, fixed, one = "variable, blocks of 8", "fixed 24, blocks of 8", "fixed 24, one block"
        return Outcome(
            tables={"formats": rows},
            effects={
                "variable": at[WHOLE, variable]["right"] - at[RESPONSE, variable]["right"],
                "own_way": at[WHOLE, variable]["right"] - at[RESPONSE, fixed]["right"],
                "eos": at[RESPONSE, one]["empty"] - at[WHOLE, one]["empty"],
                "blocks": at[RESPONSE, fixed]["right"] - at[RESPONSE, one]["right"],
                "variable_padded": at[RESPONSE, variable]["right"] - at[RESPONSE, fixed]["right"],
            },
            rooms={
                "variable": 1 - at[RESPONSE, variable]["right"],
                "own_way": 1 - at[RESPONSE, fixed]["right"],
                "blocks": 1 - at[RESPONSE, one]["right"],
            },
        )
