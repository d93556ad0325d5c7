"""The autoregressive twin of the main job's model."""

from illada_lab.experiments.lab import Lab, Trained

# What makes a fine-tuning run one of the twin.
TWIN_SFT = (
    "experiment=sft",
    "objective=autoregressive",
    "objective.is_response_only=true",
    "model.is_causal=true",
    "data.max_extra_eos=0",  # greedy decoding needs one EOS
)


def twin_of(lab: Lab) -> Trained:
    """The main job's network with causal attention, trained on the same data for as many steps with the same optimiser."""
    return lab.train("autoregressive", "experiment=autoregressive")
