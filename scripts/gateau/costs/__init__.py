"""Predictions of what a run costs: work, memory and disk of each stage. This package is above all stages."""
