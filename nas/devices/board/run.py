"""Measure the files of this bundle on the machine at hand: `python run.py`.

The same command resumes where an earlier call stopped. A copy of this file goes into every bundle,
beside the folder `runner`, which it starts.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("runner", run_name="__main__")
