"""Scores of the models: measures with confidence intervals, comparisons, and the leaderboard."""
