"""GATEAU: select long-context training data, train on it and evaluate. The library behind the workflow."""
