"""Benchmarks of the parts that can be measured without a language model."""
