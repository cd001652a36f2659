"""The hot path: a request becomes rows, rows become a batch, a batch becomes answers."""
