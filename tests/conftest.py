"""One thread for every process of the suite: two that share the cores would wait for each other at each barrier."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, here and in the processes that tests start
