"""What went wrong: how attempts end, which kind of failure an exception is, and no secret in any text."""
