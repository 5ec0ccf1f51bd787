"""Evaluation: benchmarks, answering, judging, scores and the leaderboard."""
