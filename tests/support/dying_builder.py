"""Stands in for the process that builds an engine: half an engine, and then it is killed."""

import json
import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    Path(json.loads(sys.argv[1])["engine"]).write_bytes(b"vtrt and half of")
    os.kill(os.getpid(), signal.SIGKILL)
