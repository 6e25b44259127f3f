"""One update, one loop and its hooks, for every method."""
