"""Checks of a latency table: predicted against measured networks."""
