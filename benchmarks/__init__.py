"""Benchmarks: ratios between things measured interleaved in one run, never absolute promises."""
