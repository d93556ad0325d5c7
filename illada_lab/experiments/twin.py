"""The autoregressive twin of the main job's model."""

from illada_lab.experiments.lab import Lab, Trained


def twin_of(lab: Lab) -> Trained:
    """The main job's network with causal attention, trained on the same data for as many steps with the same optimiser."""
    return lab.train("autoregressive", "experiment=autoregressive")
