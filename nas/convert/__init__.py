"""Chains of blocks as files that devices run: what they are made of, and where they are kept."""
