"""`sangsang simulate`: the mesh in virtual time, by the policy that serves."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ...services.runtime.errors import FieldViolation, InvalidRequest
from ..scheduling.admission import AdmissionLimits
from ..scheduling.work import STAGES
from ..simulation import presets
from ..simulation.drawing import check_drawing, draw
from ..simulation.mesh import Overheads, RowRules
from ..simulation.model_times import read_times
from ..simulation.report import make_report
from ..simulation.simulation import Run, Scenario
from ..simulation.simulation import simulate as play
from ..simulation.workload import Workload
from ..simulation.workload_file import read_workload
from . import simulate_options as options
from .console import err, out
from .simulate_mix import (
    MixRules,
    WorkloadRules,
    check_policy,
    make_workload,
    parse_devices,
    parse_sizes,
    parse_tiers,
)
from .simulate_tables import print_report, print_sweep


def simulate(
    context: typer.Context,
    preset: options.Preset = None,
    workload: options.WorkloadFile = None,
    arrivals: options.Arrivals = options.ArrivalsChoice.closed,
    requests: options.Requests = None,
    callers: options.Callers = presets.EIGHT_CALLERS,
    load: options.Load = 0.8,
    tier: options.Mix = None,
    size: options.Sizes = None,
    deadline: options.Deadline = None,
    cancelled: options.Cancelled = 0.0,
    tenants: options.Tenants = 1,
    seed: options.Seed = 0,
    profile: options.Profile = None,
    devices: options.Devices = "1",
    lanes: options.Lanes = 2,
    light_replicas: options.LightReplicas = 0,
    policy: options.Policy = options.PolicyChoice.lanes,
    row_limit: options.RowLimit = 8,
    min_gain: options.MinGain = 0.1,
    learnt: options.Learnt = False,
    request_ms: options.RequestMs = 0.0,
    call_ms: options.CallMs = 0.0,
    step_ms: options.StepMs = 0.0,
    max_queued: options.MaxQueued = 256,
    max_queued_s: options.MaxQueuedS = 60.0,
    draw_to: options.Draw = None,
    as_json: options.AsJson = False,
) -> None:
    """Plays a workload on a mesh in virtual time and says what came of it.

    The scheduler and the row scheduler are those that serve. Devices, wires and networks are times.
    """
    drawings = draw_to or []
    for path in drawings:
        check_drawing(path)
    if preset is not None:
        _check_preset(context, preset)
        scenarios = _preset(preset, requests, seed)
    else:
        mix = MixRules(
            parse_tiers(tier or ()), parse_sizes(size or ()), deadline, cancelled, tenants
        )
        count = requests or presets.REQUESTS
        given = read_workload(workload) if workload else None
        rules = WorkloadRules(given, arrivals.value, count, callers, load, seed, mix)
        mesh = _mesh(profile, lanes, light_replicas, policy)
        mesh = replace(
            mesh,
            rules=RowRules(row_limit=row_limit, min_gain=min_gain, known=not learnt),
            overheads=_overheads(request_ms, call_ms, step_ms),
            limits=AdmissionLimits(max_queued, max_queued_s),
        )
        scenarios = [_with_devices(mesh, number, rules) for number in parse_devices(devices)]
    _play_and_tell(scenarios, drawings, sweep=preset is None, as_json=as_json)


def _preset(preset: options.PresetChoice, requests: int | None, seed: int) -> tuple[Scenario, ...]:
    if preset is options.PresetChoice.talk:
        return presets.talk(requests or presets.TALK_REQUESTS)
    return presets.eight(requests or presets.REQUESTS, seed=seed)


def _check_preset(context: typer.Context, preset: options.PresetChoice) -> None:
    """Returns if nothing was given that a preset decides itself."""
    free = {"preset", "requests", "draw_to", "as_json"}
    if preset is options.PresetChoice.eight:
        free.add("seed")
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in free and _is_given(context, parameter.name or "")
    ]
    if given:
        raise InvalidRequest(
            [FieldViolation(name, f"is decided by the preset {preset.value}") for name in given]
        )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _mesh(
    profile: Path | None, lanes: int, light_replicas: int, policy: options.PolicyChoice
) -> Scenario:
    check_policy(policy.value, lanes)
    return Scenario(
        name="a mesh",
        times=read_times(profile) if profile else presets.a100_times(),
        workload=Workload(()),
        lane_count=lanes,
        light_replica_count=light_replicas,
        policy=policy.value,
    )


def _overheads(request_ms: float, call_ms: float, step_ms: float) -> Overheads:
    calls = dict.fromkeys(STAGES, call_ms / 1000)
    return Overheads(request_s=request_ms / 1000, call_s=calls, step_s=step_ms / 1000)


def _with_devices(mesh: Scenario, count: int, rules: WorkloadRules) -> Scenario:
    devices = "1 device" if count == 1 else f"{count:,} devices"
    # As many callers for each device have to have room, however many devices there are.
    limits = replace(mesh.limits, max_waiting=mesh.limits.max_waiting * count)
    scenario = replace(mesh, name=devices, device_count=count, limits=limits)
    return replace(scenario, workload=make_workload(scenario, rules))


def _play_and_tell(
    scenarios: Sequence[Scenario], drawings: Sequence[Path], *, sweep: bool, as_json: bool
) -> None:
    runs = _play([replace(one, recorded=bool(drawings)) for one in scenarios])
    reports = [make_report(run) for run in runs]
    if as_json:
        # Plain, so that other programs can read it.
        typer.echo(json.dumps([report.as_json() for report in reports], indent=2))
    elif sweep and len(reports) > 1:
        print_sweep(out, reports)
    else:
        for report in reports:
            print_report(out, report)
    for path in drawings:
        draw(runs, path)
        err.print(f"drawn: {path}", highlight=False)


def _play(scenarios: Sequence[Scenario]) -> list[Run]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    runs: list[Run] = []
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as bar:
        for one in scenarios:
            task = bar.add_task(one.name, total=len(one.workload.requests))
            runs.append(play(one, lambda task=task: bar.advance(task)))
    return runs
