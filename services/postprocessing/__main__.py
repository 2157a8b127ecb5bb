"""`python -m sangsang.services.postprocessing`: the postprocessing service as a process."""

from ..runtime.server import run_service
from .servicer import PostprocessingStage
from .settings import PostprocessingSettings


def main() -> None:
    """Reads the settings and serves until told to stop."""
    settings = PostprocessingSettings()
    run_service(PostprocessingStage(settings), settings)


if __name__ == "__main__":
    main()
