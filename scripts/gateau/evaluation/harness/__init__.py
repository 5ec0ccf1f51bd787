"""Tasks of lm-evaluation-harness (package ``lm_eval``), which asks the models and scores their answers."""
