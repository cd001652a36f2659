"""The monitor process."""
