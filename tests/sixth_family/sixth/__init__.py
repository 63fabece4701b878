"""A family of its own, as the registry finds one; `tests/test_sixth_family.py` adds it."""
