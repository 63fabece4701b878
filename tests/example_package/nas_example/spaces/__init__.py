"""Spaces, one YAML file each."""
