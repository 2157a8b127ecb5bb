"""`python -m sangsang.orchestrator`: the orchestrator as a process."""

import sys

from ..services.runtime.errors import MeshError
from ..services.runtime.server import run_service
from .service import OrchestratorService
from .settings import OrchestratorSettings


def main() -> None:
    """Reads the settings and serves until told to stop."""
    settings = OrchestratorSettings()
    try:
        service = OrchestratorService(settings)
    except MeshError as error:
        sys.exit(f"orchestrator: {error}")
    run_service(service, settings)


if __name__ == "__main__":
    main()
