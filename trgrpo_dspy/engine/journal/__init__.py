"""A run on disk: the journal of replies and attempts, the fingerprint that tells runs apart, files for people."""
