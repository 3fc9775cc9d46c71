"""Intervals of means, paired comparisons, and the choice among many. Pure functions of scores."""
