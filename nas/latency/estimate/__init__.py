"""Estimated tables, for maintainers: `python -m nas.latency.estimate.run DEVICE ...`.

It reads figures that only a checkout has, so it is left out of the wheel. A search prices
operations without a row by `nas.latency.cost_model` alone.
"""
