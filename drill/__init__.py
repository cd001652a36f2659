"""Plant real faults in the real stack, and measure which alerts come."""
