"""Makes estimated tables, for people who maintain `latency_tables/`: `python -m
nas.latency.estimate.run DEVICE ...`.

It reads figures that only a checkout has, so it is left out of the wheel. What a search needs to
price operations without a row is `nas.latency.cost_model`.
"""
