"""Kernels run in Triton's interpreter here: it has to be asked for before triton is imported.

pytest reads this file before it collects any test, and diffusers imports triton where it is there.
"""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
