"""Training: tokenization, mixture, batch plans, fine-tuning, checkpoints and the export of trained models."""
