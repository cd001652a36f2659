"""Files of any kind -> checked rows, dealt into parts."""
