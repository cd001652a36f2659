"""The proof that the image works: built from nothing, run locked down, and held against the service outside of it."""
