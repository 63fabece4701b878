"""From a network to the files that devices run."""
