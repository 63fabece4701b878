"""Run folders: their files and schema, the network that RUN names, and the record of exports."""
