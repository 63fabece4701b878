"""A run folder: its files and their schema, what RUN on a command line stands for, and the record
of its exports."""
