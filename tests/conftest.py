"""What holds for every test: one thread, and the same random examples in every run.

Two processes that share the cores would wait for each other at each barrier. New examples are drawn with
`HYPOTHESIS_PROFILE=explore`, to be run by hand: it tries many more.
"""

import os

import hypothesis

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, here and in the processes that tests start

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", max_examples=5000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
