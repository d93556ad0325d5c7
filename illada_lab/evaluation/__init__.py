"""Likelihoods, scoring rules and generated answers."""

from illada_lab.evaluation.choice import ChoiceItem, choose, confidence_score
from illada_lab.evaluation.likelihood import exact_log_likelihood, monte_carlo_log_likelihood

__all__ = ["ChoiceItem", "choose", "confidence_score", "exact_log_likelihood", "monte_carlo_log_likelihood"]
