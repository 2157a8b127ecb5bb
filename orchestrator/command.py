"""The command `sangsang`, with a short way to what containers run every few seconds.

The whole command line takes ten times as long to import as `sangsang healthcheck` does here.
"""

import sys


def main() -> None:
    """Runs the command that the process was given."""
    words = sys.argv[1:]
    if words[:1] == ["healthcheck"] and len(words) == 2 and not words[1].startswith("-"):
        sys.exit(_check(words[1]))
    from .cli import main as run_command_line

    run_command_line()


def _check(address: str) -> int:
    from .health_probe import SERVING, ask_health

    answer = ask_health(address)
    sys.stdout.write(f"{address}: {answer}\n")
    return 0 if answer == SERVING else 1
