"""Programs measured and compared, k attempts at each example."""
