"""The command line `sangsang`.

One file for each command; heavy packages are imported by the command that needs them.
"""

import sys

import typer

from ...services.runtime.errors import MeshError
from . import (
    build,
    doctor,
    export_triton,
    generate,
    healthcheck,
    models,
    simulate,
    tools,
    top,
    trace,
    up,
)
from .console import fail

app = typer.Typer(
    name="sangsang",
    help=(
        "Sangsang serves distilled diffusion models as a mesh of gRPC stage services.\n\n"
        'Start here: [bold]sangsang generate --local "a rocket on a yellow background"[/bold]'
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
app.command()(up.up)
app.command()(generate.generate)
app.command()(models.models)
app.command()(top.top)
app.command()(build.build)
app.command("export-triton")(export_triton.export_triton)
app.command()(doctor.doctor)
app.command()(simulate.simulate)
app.add_typer(trace.app, name="trace")
for tool in tools.TOOLS:
    # Its own --help answers, not ours.
    app.command(
        tool.name,
        help=tool.summary,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(tool.command)
app.command()(healthcheck.healthcheck)


def main() -> None:
    """Runs the command line; an error of the mesh ends it with a sentence, not a traceback."""
    try:
        app()
    except MeshError as error:
        sys.exit(fail(error.message))


__all__ = ["app", "main"]
