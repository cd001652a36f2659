"""Does the traffic still look like the reference: signals, limits, verdicts."""
