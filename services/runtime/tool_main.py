"""The end of a stage's own command line: what its caller can mend is told in a sentence."""

from collections.abc import Callable

from rich.console import Console


def run_tool(app: Callable[..., object], name: str, mendable: tuple[type[Exception], ...]) -> int:
    """Runs a typer application and returns its exit code.

    Args:
        app: the application.
        name: what its help calls it, e.g. `sangsang evaluate`.
        mendable: errors whose message says what to do; every other one is a bug.
    """
    try:
        app(prog_name=name)
    except mendable as error:
        console = Console(stderr=True)
        console.print("[bold red]error[/bold red]", end=" ")
        console.print(str(error), highlight=False, markup=False)
        return 1
    return 0
