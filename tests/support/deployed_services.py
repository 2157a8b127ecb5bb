"""The services as compose files and Kubernetes name them, each with its settings."""

from sangsang.orchestrator.settings import OrchestratorSettings
from sangsang.services.diffusion.settings import DiffusionSettings
from sangsang.services.postprocessing.settings import PostprocessingSettings
from sangsang.services.preprocessing.settings import PreprocessingSettings
from sangsang.services.text_encoding.settings import TextEncodingSettings

SETTINGS = {
    "text-encoding": TextEncodingSettings,
    "preprocessing": PreprocessingSettings,
    "diffusion": DiffusionSettings,
    "postprocessing": PostprocessingSettings,
    "orchestrator": OrchestratorSettings,
}
