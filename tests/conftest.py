"""Being here puts this folder on the import path, so that the tests of every part find the helpers beside it."""

import os

from hypothesis import settings

# Tests run side by side, one process per core. If each computed with one thread per core, threads would spin while
# they wait for others: a product of small matrices then takes up to forty times as long. NumPy reads this on import.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

# How long an example takes depends on what else the machine does: that must fail no test.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
