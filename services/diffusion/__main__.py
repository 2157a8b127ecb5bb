"""`python -m sangsang.services.diffusion`: the diffusion service as a process."""

from ..runtime.server import run_service
from .servicer import DiffusionStage
from .settings import DiffusionSettings


def main() -> None:
    """Reads the settings and serves until told to stop."""
    settings = DiffusionSettings()
    run_service(DiffusionStage(settings), settings)


if __name__ == "__main__":
    main()
