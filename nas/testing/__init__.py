"""Conformance tests for blocks, spaces and devices, and a fake device.

This project's tests run them, and so can those of packages that add a block, space or device.
"""
