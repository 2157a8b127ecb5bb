"""ONNX Runtime's package, imported so that it does not report to its makers.

Its wheels send events to Microsoft, unasked, and write an identifier into the home folder (1.32).
Where there is no network, as in a container of the mesh, that also holds a process that has done
all its work for six seconds. The variable has to be set before the library is loaded; whoever sets
it to 0 has the reports back.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

__all__ = ["ort"]
