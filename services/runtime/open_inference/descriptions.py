"""An engine as the protocol describes it: its metadata and its configuration."""

from collections.abc import Sequence

from ..engines.engine import Described, TensorSpec
from .datatypes import datatype_of
from .messages import ModelConfig, ModelMetadataResponse, Proto
from .served_engine import ServedEngine

# An engine has one version: another digest is another release of the stage.
VERSION = "1"
# Parameters of a configuration that tells shapes whole: the most rows of a call, and, of an engine
# that was compiled for some sizes of a batch, these, behind commas.
MOST_ROWS_NAME = "most_rows"
ROW_COUNTS_NAME = "row_counts"


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


def model_config(name: str, engine: Described, max_batch_size: int) -> Proto:
    """Returns an engine in the form of a Triton model configuration.

    Args:
        name: under which it is served.
        engine: what is served.
        max_batch_size: most rows of one request; 0 where shapes are told whole.
    """
    message = ModelConfig(
        name=name,
        platform=engine.backend,
        backend=engine.backend,
        max_batch_size=max_batch_size,
    )
    message.version_policy.specific.versions.append(int(VERSION))
    message.parameters["precision"].string_value = engine.precision
    message.parameters["digest"].string_value = engine.digest
    batch_rank = 1 if max_batch_size > 0 else 0
    _add_configs(message.input, engine.inputs, batch_rank)
    for config, spec in zip(message.input, engine.inputs, strict=True):
        config.optional = spec.optional
    _add_configs(message.output, engine.outputs, batch_rank)
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
