"""What a release is, where it lives, and which one is live."""
