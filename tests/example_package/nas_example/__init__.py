"""A block, a space, a device and a kind of device for nas."""
