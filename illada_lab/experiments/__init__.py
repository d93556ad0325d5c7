"""Experiments of the paper, scaled by configuration."""
