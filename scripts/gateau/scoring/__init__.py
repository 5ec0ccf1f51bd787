"""Scoring passes: the response NLLs and attention profiles of all samples, with a store that survives kills."""
