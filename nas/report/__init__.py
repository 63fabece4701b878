"""Reports: what a run folder holds as pictures (PNG) and as one page (HTML). The data apart from
the drawing."""
