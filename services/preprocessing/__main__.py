"""`python -m sangsang.services.preprocessing`: the preprocessing service as a process."""

from ..runtime.server import run_service
from .servicer import PreprocessingStage
from .settings import PreprocessingSettings


def main() -> None:
    """Reads the settings and serves until told to stop."""
    settings = PreprocessingSettings()
    run_service(PreprocessingStage(settings), settings)


if __name__ == "__main__":
    main()
