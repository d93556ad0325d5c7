"""Likelihoods, scoring rules and generated answers."""

from illada_lab.evaluation.autoregressive import Greedy, chain_rule_log_likelihoods
from illada_lab.evaluation.choice import ChoiceItem, choose, confidence_score, confidence_scores
from illada_lab.evaluation.likelihood import (
    any_order_log_likelihood,
    exact_log_likelihood,
    monte_carlo_log_likelihood,
    monte_carlo_log_likelihoods,
)

__all__ = [
    "ChoiceItem",
    "Greedy",
    "any_order_log_likelihood",
    "chain_rule_log_likelihoods",
    "choose",
    "confidence_score",
    "confidence_scores",
    "exact_log_likelihood",
    "monte_carlo_log_likelihood",
    "monte_carlo_log_likelihoods",
]
