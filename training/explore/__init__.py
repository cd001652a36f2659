"""What is wrong with the data: leaks, copies, drift, doubtful labels."""
