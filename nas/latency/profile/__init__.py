"""Profiling: choosing and measuring operations, and interpolating the rest of the table."""
