"""An engine as the protocol describes it: its metadata and its configuration."""

from collections.abc import Sequence

from ..engines.engine import TensorSpec
from .datatypes import datatype_of
from .messages import ModelConfig, ModelMetadataResponse, Proto
from .served_engine import ServedEngine

# An engine has one version: another digest is another release of the stage.
VERSION = "1"


def model_metadata(name: str, served: ServedEngine) -> Proto:
    """Returns the names, datatypes and whole shapes of an engine's tensors."""
    message = ModelMetadataResponse(name=name, versions=[VERSION], platform=served.engine.backend)
    for target, specs in (
        (message.inputs, served.engine.inputs),
        (message.outputs, served.engine.outputs),
    ):
        for spec in specs:
            target.add(
                name=spec.name, datatype=datatype_of(spec.dtype).name, shape=_sizes(spec.shape)
            )
    return message


def model_config(name: str, served: ServedEngine) -> Proto:
    """Returns an engine in the form of a Triton model configuration."""
    message = ModelConfig(
        name=name,
        platform=served.engine.backend,
        backend=served.engine.backend,
        max_batch_size=served.max_batch_size,
    )
    message.version_policy.specific.versions.append(int(VERSION))
    message.parameters["precision"].string_value = served.engine.precision
    message.parameters["digest"].string_value = served.engine.digest
    _add_configs(message.input, served.engine.inputs, served.batch_rank)
    for config, spec in zip(message.input, served.engine.inputs, strict=True):
        config.optional = spec.optional
    _add_configs(message.output, served.engine.outputs, served.batch_rank)
    return message


def _add_configs(target: Proto, specs: Sequence[TensorSpec], batch_rank: int) -> None:
    for spec in specs:
        target.add(
            name=spec.name,
            data_type=datatype_of(spec.dtype).config_name,
            # A configuration leaves the batch out where there is one.
            dims=_sizes(spec.shape[batch_rank:]),
        )


def _sizes(shape: Sequence[int | None]) -> list[int]:
    return [-1 if size is None else size for size in shape]
