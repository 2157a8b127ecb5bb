"""ONNX Runtime keeps to itself. No sockets."""

import os
import subprocess
import sys
from pathlib import Path

POCKET = Path(__file__).parents[2] / "deploy" / "models" / "pocket"
LOADING = """
import sys
from pathlib import Path
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.models.folder import ModelFolder

folder = ModelFolder.open(Path(sys.argv[1]))
load_engine(folder, "text_encoder", backend="onnxruntime", cache=Path(sys.argv[2])).close()
"""


def test_serving_leaves_no_identifier_behind(tmp_path):
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    said = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_DATA_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in said}
    command = [sys.executable, "-c", LOADING, str(POCKET), str(cache)]
    subprocess.run(command, env={**environment, "HOME": str(home)}, check=True, timeout=120)
    # It lies in .cache/Microsoft where reports are sent.
    assert list(home.rglob("*")) == []
