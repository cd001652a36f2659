"""Networks and how they are trained: to the same bits, however often they are stopped."""
