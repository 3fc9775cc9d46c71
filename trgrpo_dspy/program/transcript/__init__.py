"""What a program did in an attempt, as bounded text."""
