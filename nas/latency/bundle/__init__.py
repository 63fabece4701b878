"""Write, run and merge bundles: folders in which measurements travel to another machine.

`nas profile --bundle` writes the chains that fill a table as files. `--run` measures them on the
machine that has the device, and `--merge` makes the table of the results at home.
"""

from nas.latency.bundle.merge import merge_bundle
from nas.latency.bundle.run import run_bundle
from nas.latency.bundle.write import Written, write_bundle

__all__ = ["Written", "merge_bundle", "run_bundle", "write_bundle"]
