"""Counts that add up over the workers of a service and outlive a killed one."""
