"""What was paid for and found, on disk: replies and results, and whose they are."""
