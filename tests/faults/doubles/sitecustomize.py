"""Engines that a picture of a certain seed kills, or hangs, in the processes of a test's mesh.

Python imports this file when it starts, for the tests put its folder on PYTHONPATH; nothing that is
served knows of it. It replaces the one function through which all UNet steps go.
"""

import os
import signal
import sys
import time

KILLING_SEED = 666
HANGING_SEED = 777

if "sangsang.services.diffusion" in sys.orig_argv:
    from sangsang.services.diffusion import batch

    run_batch = batch.run_batch

    def run_poisoned(engine, members, preview_map):
        seeds = {member.job.seed for member in members}
        if KILLING_SEED in seeds:
            os.kill(os.getpid(), signal.SIGKILL)
        if HANGING_SEED in seeds:
            time.sleep(3600)
        return run_batch(engine, members, preview_map)

    batch.run_batch = run_poisoned
