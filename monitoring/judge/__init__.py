"""How good the answers are: measured, estimated, compared."""
