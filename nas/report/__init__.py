"""Reports: the data of a run folder, and its pictures (PNG) and page (HTML).

Modules read data first and draw it second. `nas report` and `nas search` use them.
"""
