"""What the traffic looks like, how good the answers were, and when to say so."""
