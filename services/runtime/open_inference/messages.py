"""The messages of the Open Inference Protocol, in a descriptor pool of their own.

tritonclient and kserve register the same names in the default pool, and two registrations in one
pool raise. Reading our descriptor set into a private pool lets all three live in one process, in
any order of import.
"""

from importlib import resources
from typing import Any, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

# The classes are made at run time, so a type checker cannot know their fields.
Proto: TypeAlias = Any

PACKAGE = "inference"
SERVICE_NAME = f"{PACKAGE}.GRPCInferenceService"
DESCRIPTOR_SET = "open_inference.binpb"


def _load_pool() -> descriptor_pool.DescriptorPool:
    """Returns a new pool that holds the committed descriptor set and nothing else."""
    data = resources.files(__package__ or "").joinpath(DESCRIPTOR_SET).read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = _load_pool()


def _message_class(name: str) -> Proto:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


ServerLiveRequest = _message_class("ServerLiveRequest")
ServerLiveResponse = _message_class("ServerLiveResponse")
ServerReadyRequest = _message_class("ServerReadyRequest")
ServerReadyResponse = _message_class("ServerReadyResponse")
ModelReadyRequest = _message_class("ModelReadyRequest")
ModelReadyResponse = _message_class("ModelReadyResponse")
ServerMetadataRequest = _message_class("ServerMetadataRequest")
ServerMetadataResponse = _message_class("ServerMetadataResponse")
ModelMetadataRequest = _message_class("ModelMetadataRequest")
ModelMetadataResponse = _message_class("ModelMetadataResponse")
ModelInferRequest = _message_class("ModelInferRequest")
ModelInferResponse = _message_class("ModelInferResponse")
ModelStreamInferResponse = _message_class("ModelStreamInferResponse")
ModelConfig = _message_class("ModelConfig")
ModelConfigRequest = _message_class("ModelConfigRequest")
ModelConfigResponse = _message_class("ModelConfigResponse")
ModelStatistics = _message_class("ModelStatistics")
ModelStatisticsRequest = _message_class("ModelStatisticsRequest")
ModelStatisticsResponse = _message_class("ModelStatisticsResponse")
RepositoryIndexRequest = _message_class("RepositoryIndexRequest")
RepositoryIndexResponse = _message_class("RepositoryIndexResponse")


def config_text(config: Proto) -> str:
    """Returns a model's configuration as Triton reads it from a file."""
    return text_format.MessageToString(config, as_utf8=True, descriptor_pool=POOL)
