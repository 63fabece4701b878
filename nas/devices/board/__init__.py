"""Boards and Macs measured by a bundle: the program that runs there, and the results read here."""
