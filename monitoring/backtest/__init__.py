"""What the alert rules would have said of traffic that was recorded, and when."""
