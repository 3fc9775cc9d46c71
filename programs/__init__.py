"""Programs to optimize, each with its metric and its data."""
