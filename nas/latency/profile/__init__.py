"""Profiling: which operations to measure, measuring them, and filling the rest of the table."""
