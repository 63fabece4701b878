"""Conversion of chains of blocks to the files that devices run, with a cache by content."""
