"""What the person on call asks in a terminal: how are things now."""
