"""Reports for people: what recorded traffic looks like beside the reference, kept in a folder with an index."""
