"""Other projects that architectures are handed to as their own models. Users import the modules."""
