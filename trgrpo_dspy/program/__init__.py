"""The user's program: its instructions, what it did, how it is scored, copies of it."""
