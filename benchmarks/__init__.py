"""Benchmarks: what docs/results.md reports, runnable with ``make bench``."""
