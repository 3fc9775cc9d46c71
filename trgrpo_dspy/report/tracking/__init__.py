"""Trackers people already look at: listeners of events, each behind an extra of its own."""
