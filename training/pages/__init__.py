"""Documents for people: the model card, its tables and pictures."""
