"""Benchmarks: ratios of systems that are measured side by side in one run."""
