"""OpenVINO's package, imported so that it does not report to its makers.

`import openvino` alone sends an event to an analytics service, without asking, and writes an
identifier into the home folder (2026.4.1). It does not where the package `openvino_telemetry` is
missing, so for the time of the import it is.
"""

import sys
from types import ModuleType
from typing import cast

_TELEMETRY = "openvino_telemetry"

_known = sys.modules.get(_TELEMETRY)
# None is how `import` is told that there is no such module.
sys.modules[_TELEMETRY] = cast(ModuleType, None)
try:
    import openvino as ov
finally:
    del sys.modules[_TELEMETRY]
    if _known is not None:
        sys.modules[_TELEMETRY] = _known

__all__ = ["ov"]
