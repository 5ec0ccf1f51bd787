"""The paper in miniature: a tiny model is trained on what each method selects, and asked what it learned."""
