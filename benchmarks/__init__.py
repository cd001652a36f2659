"""One function per claim in the README; `python -m benchmarks.run` writes them to benchmarks/results/."""
