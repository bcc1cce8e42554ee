"""Being here puts this folder on the import path, so that the tests of every part find the helpers beside it."""

import os

# Tests run side by side, one process a core. Were each of them to compute with a thread a core, the threads would wait
# for one another, busily: a product of small matrices then takes up to forty times as long. Read when NumPy is loaded.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")
