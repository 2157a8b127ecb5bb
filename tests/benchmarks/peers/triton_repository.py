"""The model repositories of Triton: three stages as Python models, an ensemble for each tier."""

from dataclasses import dataclass
from pathlib import Path

_TEXTS = "TYPE_STRING dims: [1]"
_NUMBER = "TYPE_INT64 dims: [1]"
_CONTEXTS = "TYPE_FP32 dims: [-1, -1, -1]"
_LATENTS = "TYPE_FP32 dims: [-1, -1, -1]"
# Requests that wait longer than their `timeout` are refused rather than run.
_QUEUE = (
    "default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 0 "
    "allow_timeout_override: true }"
)


Tensors = dict[str, str]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model of a repository, with what its `config.pbtxt` says."""

    name: str
    class_name: str
    inputs: Tensors
    outputs: Tensors
    batch: int
    scheduling: str
    instances: int

    def text(self) -> str:
        """Returns the file."""
        return "\n".join(
            (
                'backend: "python"',
                f"max_batch_size: {self.batch}",
                *_tensors("input", self.inputs, ragged=True),
                *_tensors("output", self.outputs),
                f"instance_group [{{ kind: KIND_CPU count: {self.instances} }}]",
                self.scheduling,
            )
        )

    def write(self, repository: Path) -> None:
        """Writes the model into a repository."""
        version = repository / self.name / "1"
        version.mkdir(parents=True)
        source = f"from peers.triton_models import {self.class_name} as TritonPythonModel\n"
        (version / "model.py").write_text(source)
        (repository / self.name / "config.pbtxt").write_text(self.text() + "\n")


def write_repository(
    repository: Path, device_count: int, row_limit: int, *, iterative: bool
) -> None:
    """Writes the models: the three stages, and an ensemble for each tier over them."""
    batching = f"dynamic_batching {{ {_QUEUE} }}"
    # Pictures of a full step if all are guided; Triton counts requests, not rows.
    step = row_limit // 2
    steps = (
        "sequence_batching { iterative_sequence: true max_sequence_idle_microseconds: 60000000 "
        f"oldest {{ max_candidate_sequences: {4 * step} }} }}"
    )
    texts = {"PROMPT": _TEXTS, "TIER": _TEXTS}
    inputs = {"CONTEXTS": _CONTEXTS, "SEED": _NUMBER, "TIER": _TEXTS}
    latents, picture = {"LATENTS": _LATENTS}, {"PICTURE": _TEXTS}

    def write(name: str, kind: str, ins: Tensors, outs: Tensors, batch: int, how: str) -> None:
        ModelConfig(name, kind, ins, outs, batch, how, device_count).write(repository)

    write("text", "Text", texts, {"CONTEXTS": _CONTEXTS}, row_limit, batching)
    write("decode", "Decode", latents, picture, row_limit, batching)
    if iterative:
        write("diffusion", "IterativeDiffusion", inputs, latents, step, steps)
    for tier, row_count in (("free", 1), ("pro", 2)):
        batch = step if iterative else row_limit // row_count
        name = "diffusion" if iterative else f"diffusion_{tier}"
        _write_ensemble(repository, f"pocket_{tier}", name, batch)
        if not iterative:
            write(name, "Diffusion", inputs, latents, batch, batching)


def _write_ensemble(repository: Path, name: str, diffusion: str, batch: int) -> None:
    (repository / name / "1").mkdir(parents=True)
    steps = (
        _step("text", {"PROMPT": "PROMPT", "TIER": "TIER"}, {"CONTEXTS": "contexts"}),
        _step(
            diffusion,
            {"CONTEXTS": "contexts", "SEED": "SEED", "TIER": "TIER"},
            {"LATENTS": "latents"},
        ),
        _step("decode", {"LATENTS": "latents"}, {"PICTURE": "PICTURE"}),
    )
    lines = (
        'platform: "ensemble"',
        f"max_batch_size: {batch}",
        *_tensors("input", {"PROMPT": _TEXTS, "SEED": _NUMBER, "TIER": _TEXTS}),
        *_tensors("output", {"PICTURE": _TEXTS}),
        f"ensemble_scheduling {{ step [ {', '.join(steps)} ] }}",
    )
    (repository / name / "config.pbtxt").write_text("\n".join(lines) + "\n")


def _step(model: str, inputs: Tensors, outputs: Tensors) -> str:
    maps = [
        f'{kind}_map {{ key: "{key}" value: "{value}" }}'
        for kind, some in (("input", inputs), ("output", outputs))
        for key, value in some.items()
    ]
    return f'{{ model_name: "{model}" model_version: -1 {" ".join(maps)} }}'


def _tensors(kind: str, tensors: Tensors, *, ragged: bool = False) -> list[str]:
    option = " allow_ragged_batch: true" if ragged else ""
    return [
        f'{kind} [{{ name: "{name}" data_type: {text}{option} }}]' for name, text in tensors.items()
    ]
