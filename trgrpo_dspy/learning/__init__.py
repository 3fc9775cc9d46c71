"""The algorithm: groups of attempts, reflection on them, edits of the library."""
