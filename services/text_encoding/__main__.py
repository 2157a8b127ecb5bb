"""`python -m sangsang.services.text_encoding`: the text encoding service as a process."""

from ..runtime.server import run_service
from .servicer import TextEncodingStage
from .settings import TextEncodingSettings


def main() -> None:
    """Reads the settings and serves until told to stop."""
    settings = TextEncodingSettings()
    run_service(TextEncodingStage(settings), settings)


if __name__ == "__main__":
    main()
