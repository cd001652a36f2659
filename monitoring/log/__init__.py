"""The prediction log: what is written, what is kept, what came later."""
