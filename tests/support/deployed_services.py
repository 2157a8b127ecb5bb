"""The services as compose files and Kubernetes name them, each with its settings."""

from sangsang.orchestrator.settings import OrchestratorSettings
from sangsang.services.diffusion.settings import DiffusionSettings
from sangsang.services.postprocessing.settings import PostprocessingSettings
from sangsang.services.preprocessing.settings import PreprocessingSettings
from sangsang.services.runtime.server import FAREWELL_S
from sangsang.services.runtime.settings import ProcessSettings
from sangsang.services.runtime.span_batches import CLOSE_S
from sangsang.services.text_encoding.settings import TextEncodingSettings

SETTINGS = {
    "text-encoding": TextEncodingSettings,
    "preprocessing": PreprocessingSettings,
    "diffusion": DiffusionSettings,
    "postprocessing": PostprocessingSettings,
    "orchestrator": OrchestratorSettings,
}
# Of a process's drain that no setting says: an engine call that runs, and the process's own end.
REST_S = 3


def drain_s(settings: ProcessSettings) -> float:
    """Seconds that a process may take from SIGTERM to its end."""
    return settings.lame_duck_s + settings.grace_s + FAREWELL_S + CLOSE_S + REST_S
