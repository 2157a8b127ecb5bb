"""One engine of a model as a model of the repository: its configuration, and its files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..engines.engine import TensorSpec
from ..open_inference.descriptions import VERSION, model_config
from ..open_inference.messages import Proto, config_text

CONFIG_NAME = "config.pbtxt"


@dataclass(frozen=True, slots=True)
class HostedModule:
    """An engine that Triton is to run.

    Attributes:
        name: under which a stage asks for it: `MODEL_ID.MODULE`.
        backend: of Triton, e.g. `onnxruntime`.
        platform: Triton's older name for the backend; empty where it has none.
        file_name: what the backend opens in the version's folder.
        kind: where it runs.
        digest: of the weights and configuration that it was built from.
        precision: what it computes in.
        inputs: what a call takes.
        outputs: what a call gives.
        write: puts its files into the version's folder.
        parameters: further ones of its configuration.
        profiles: optimisation profiles of a TensorRT engine.
        max_batch_size: most rows of one call. At 0 shapes are told whole, which any engine can be:
            with a limit Triton wants a size beside the batch, which a UNet's `timestep` lacks.
    """

    name: str
    backend: str
    platform: str
    file_name: str
    kind: Literal["KIND_CPU", "KIND_GPU"]
    digest: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    write: Callable[[Path], None]
    parameters: Mapping[str, str]
    profiles: Sequence[int] = ()
    max_batch_size: int = 0

    def config(self, instance_count: int) -> Proto:
        """Returns its `ModelConfig`.

        Args:
            instance_count: copies, which run side by side.
        """
        message = model_config(self.name, self, self.max_batch_size)
        message.platform = self.platform
        message.default_model_filename = self.file_name
        profiles = [str(profile) for profile in self.profiles]
        message.instance_group.add(kind=self.kind, count=instance_count, profile=profiles)
        for key, value in self.parameters.items():
            message.parameters[key].string_value = value
        return message

    def write_into(self, repository: Path, instance_count: int) -> Path:
        """Writes its folder into a repository and returns it."""
        folder = repository / self.name
        version = folder / VERSION
        version.mkdir(parents=True)
        self.write(version)
        (folder / CONFIG_NAME).write_text(config_text(self.config(instance_count)), "utf-8")
        return folder
