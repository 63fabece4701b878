"""Conformance tests for blocks, spaces and devices, and a fake device.

The tests of this project run them, as can those of packages that add a block, space or device.
"""
