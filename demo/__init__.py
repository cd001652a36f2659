"""The whole house on real data: train, release, serve, watch, drift, alert, bad release, rollback."""
