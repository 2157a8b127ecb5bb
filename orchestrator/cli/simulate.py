"""`sangsang simulate`: the mesh in virtual time, by the policy that serves."""

import json
from collections.abc import Sequence
from dataclasses import replace

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..scheduling.admission import AdmissionLimits
from ..scheduling.work import STAGES
from ..simulation import presets
from ..simulation.drawing import check_drawing, draw
from ..simulation.mesh import Overheads, RowRules
from ..simulation.model_times import read_times
from ..simulation.report import Report, make_report
from ..simulation.simulation import Run, Scenario
from ..simulation.simulation import simulate as play
from ..simulation.workload import Workload
from ..simulation.workload_file import read_workload
from . import simulate_options as options
from .console import err, out
from .simulate_mix import (
    WorkloadRules,
    check_policy,
    make_workload,
    parse_devices,
    parse_sizes,
    parse_tiers,
)
from .simulate_tables import print_report, print_sweep

_NO_REQUESTS = Workload(())


def simulate(
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
    call_ms: options.CallMs = 0.0,
    step_ms: options.StepMs = 0.0,
    max_queued: options.MaxQueued = 256,
    max_queued_s: options.MaxQueuedS = 60.0,
    draw_to: options.Draw = None,
    as_json: options.AsJson = False,
) -> None:
    """Plays a workload on a mesh in virtual time and says what came of it.

    The scheduler and the row scheduler are the objects that serve; devices, wires and networks are
    not there. No time passes: an hour of eight devices takes minutes, of one less.
    """
    for path in draw_to or ():
        check_drawing(path)
    check_policy(policy.value, lanes)
    if preset is options.PresetChoice.talk:
        scenarios = presets.talk(requests or presets.TALK_REQUESTS)
    elif preset is options.PresetChoice.eight:
        scenarios = presets.eight(requests or presets.REQUESTS, seed=seed)
    else:
        mesh = Scenario(
            name="a mesh",
            times=read_times(profile or presets.PROFILES / "sd15-a100.json"),
            workload=_NO_REQUESTS,
            lane_count=lanes,
            light_replica_count=light_replicas,
            policy=policy.value,
            rules=RowRules(row_limit=row_limit, min_gain=min_gain, known=not learnt),
            overheads=Overheads(
                call_s=dict.fromkeys(STAGES, call_ms / 1000), step_s=step_ms / 1000
            ),
            limits=AdmissionLimits(max_queued, max_queued_s),
        )
        rules = WorkloadRules(
            given=read_workload(workload) if workload else None,
            arrivals=arrivals.value,
            requests=requests or presets.REQUESTS,
            callers=callers,
            load=load,
            tiers=parse_tiers(tier or ()),
            sizes=parse_sizes(size or ()),
            deadline=deadline,
            cancelled=cancelled,
            tenants=tenants,
            seed=seed,
        )
        scenarios = [_with_devices(mesh, count, rules) for count in parse_devices(devices)]
    runs = _play([replace(one, recorded=bool(draw_to)) for one in scenarios])
    _tell(runs, sweep=preset is None and len(runs) > 1, as_json=as_json)
    for path in draw_to or ():
        draw(runs, path)
        err.print(f"drawn: {path}", highlight=False)


def _with_devices(mesh: Scenario, count: int, rules: WorkloadRules) -> Scenario:
    devices = "1 device" if count == 1 else f"{count:,} devices"
    # As many callers for each device have to have room, however many devices there are.
    limits = replace(mesh.limits, max_waiting=mesh.limits.max_waiting * count)
    scenario = replace(mesh, name=devices, device_count=count, limits=limits)
    return replace(scenario, workload=make_workload(scenario, rules))


def _play(scenarios: Sequence[Scenario]) -> list[Run]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    runs: list[Run] = []
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as bar:
        for one in scenarios:
            task = bar.add_task(one.name, total=len(one.workload.requests))
            runs.append(play(one, lambda task=task: bar.advance(task)))
    return runs


def _tell(runs: Sequence[Run], *, sweep: bool, as_json: bool) -> None:
    reports: list[Report] = [make_report(run) for run in runs]
    if as_json:
        # Plain, so that other programs can read it.
        typer.echo(json.dumps([report.as_json() for report in reports], indent=2))
    elif sweep:
        print_sweep(out, reports)
    else:
        for report in reports:
            print_report(out, report)
