"""Stand-ins for what tests cannot have, for this project and for others that add a device to it."""
