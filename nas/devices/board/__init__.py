"""Boards and Macs that are measured by a bundle: what runs there, and its results here."""
