"""What `sangsang simulate` takes, with the words of its `--help`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_WORK, _MESH, _OUT = "What is asked for", "The mesh", "What is told"


class PresetChoice(StrEnum):
    """Presets by name."""

    talk = "talk"
    eight = "eight"


class ArrivalsChoice(StrEnum):
    """How requests arrive."""

    closed = "closed"
    poisson = "poisson"
    bursts = "bursts"


class PolicyChoice(StrEnum):
    """Who gives lanes."""

    lanes = "lanes"
    whole_requests = "whole-requests"


Preset = Annotated[
    PresetChoice | None,
    typer.Argument(
        help="`talk`: the talk's pipeline of models 1, 2, 1', diffusion, 3, 4, 5 on one GPU, "
        "in one lane, in two without a scheduler, and in two with it. `eight`: its eight servers, "
        "Free and Pro, always busy. Nothing: a mesh and a workload of your own, by the options."
    ),
]
WorkloadFile = Annotated[
    Path | None,
    typer.Option(
        "--workload",
        help="Requests from a file, JSON lines or .csv: arrival, tier, tenant, steps, rows, "
        "pictures, size, deadline, cancel; times in seconds. Default: drawn at random.",
        rich_help_panel=_WORK,
    ),
]
Arrivals = Annotated[
    ArrivalsChoice,
    typer.Option(
        help="`closed`: callers who each wait for their picture; `poisson`: at random; "
        "`bursts`: at random, and more now and then.",
        rich_help_panel=_WORK,
    ),
]
Requests = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Requests for each device; 200 by default, of the talk's 2.",
        rich_help_panel=_WORK,
    ),
]
Callers = Annotated[
    int, typer.Option(min=1, help="Callers for each device, closed loop.", rich_help_panel=_WORK)
]
Load = Annotated[
    float,
    typer.Option(
        min=0.001,
        help="Arrivals, as a multiple of what the devices could do at best.",
        rich_help_panel=_WORK,
    ),
]
Mix = Annotated[
    list[str] | None,
    typer.Option(
        "--tier",
        help="Tier of the mix, NAME=SHARE:STEPSxROWS; repeat it. "
        "Default: free=0.7:3x1 and pro=0.3:35x2.",
        rich_help_panel=_WORK,
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--size", help="Size of the mix, HEIGHTxWIDTH=SHARE; repeat it.", rich_help_panel=_WORK
    ),
]
Deadline = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Deadlines, as a multiple of what a request takes alone. Default: none.",
        rich_help_panel=_WORK,
    ),
]
Cancelled = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="Share of the callers who leave within a second.", rich_help_panel=_WORK
    ),
]
Tenants = Annotated[int, typer.Option(min=1, help="Tenants of the mix.", rich_help_panel=_WORK)]
Seed = Annotated[
    int, typer.Option(help="Same seed, same requests, same run.", rich_help_panel=_WORK)
]
Profile = Annotated[
    Path | None,
    typer.Option(
        help="What takes how long: a file as in deploy/profiles, or a model folder that "
        "`sangsang profile` was run on. Default: Stable Diffusion 1.5 on an A100.",
        rich_help_panel=_MESH,
    ),
]
Devices = Annotated[
    str,
    typer.Option(
        help="Devices, 1 to 10000; several numbers, as 1,8,64,1000, make a sweep.",
        rich_help_panel=_MESH,
    ),
]
Lanes = Annotated[
    int, typer.Option(min=0, help="Lanes of each device; 0: any number.", rich_help_panel=_MESH)
]
LightReplicas = Annotated[
    int,
    typer.Option(
        min=0,
        help="Replicas of each light stage, shared by the devices; 0: one on each device.",
        rich_help_panel=_MESH,
    ),
]
Policy = Annotated[
    PolicyChoice,
    typer.Option(
        help="`lanes`: the scheduler that serves; `whole-requests`: none, each lane runs one "
        "request after another.",
        rich_help_panel=_MESH,
    ),
]
RowLimit = Annotated[int, typer.Option(min=1, help="Most rows of a step.", rich_help_panel=_MESH)]
MinGain = Annotated[
    float,
    typer.Option(min=0, help="How much cheaper more rows must make a row.", rich_help_panel=_MESH),
]
Learnt = Annotated[
    bool,
    typer.Option(
        "--learnt",
        help="Do not tell the schedulers what the profile says: they learn as they go.",
        rich_help_panel=_MESH,
    ),
]
RequestMs = Annotated[
    float,
    typer.Option(
        min=0, help="What a request takes to and from the mesh, ms.", rich_help_panel=_MESH
    ),
]
CallMs = Annotated[
    float,
    typer.Option(
        min=0, help="What each stage call takes beside its device, ms.", rich_help_panel=_MESH
    ),
]
StepMs = Annotated[
    float,
    typer.Option(
        min=0, help="What a loop takes between two of its steps, ms.", rich_help_panel=_MESH
    ),
]
MaxQueued = Annotated[
    int, typer.Option(min=0, help="Requests that may wait, for each device.", rich_help_panel=_MESH)
]
MaxQueuedS = Annotated[
    float, typer.Option(min=0.001, help="Estimated seconds of wait allowed.", rich_help_panel=_MESH)
]
Draw = Annotated[
    list[Path] | None,
    typer.Option(
        "--draw",
        help="Draw the lanes into a file: .svg, .png, or .html to zoom into; repeat it.",
        rich_help_panel=_OUT,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the figures as JSON.", rich_help_panel=_OUT)
]
