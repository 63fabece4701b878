"""A block, a space and a device for nas."""
