"""How good a model is, with intervals, against its baselines."""
