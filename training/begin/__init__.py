"""Look at a user's data and write the TOML file that trains on it."""
