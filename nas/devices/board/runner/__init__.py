"""The programs of a bundle that measure it on the machine at hand.

A copy of this folder goes into every bundle, for boards that have nothing else. It stands alone on
Python 3.8 or newer, without nas: its modules import only each other. `run.py` beside it starts it.
"""
