"""Our declarations are the public protocol's, and they keep out of everyone's way."""

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import tritonclient.grpc.model_config_pb2 as their_config
import tritonclient.grpc.service_pb2 as their_service
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from sangsang.services.runtime.open_inference import messages

ROOT = Path(__file__).parents[3]
PROTO_FOLDER = ROOT / "protos" / "inference"
THEIR_FILES = (their_service.DESCRIPTOR, their_config.DESCRIPTOR)
OURS = messages.POOL.FindFileByName("open_inference.proto")


def all_messages(found: dict[str, Descriptor]) -> dict[str, Descriptor]:
    nested = [m for message in found.values() for m in message.nested_types]
    named = {message.full_name: message for message in found.values()}
    return {**named, **all_messages({m.full_name: m for m in nested})} if nested else named


def facts(field: FieldDescriptor) -> dict[str, object]:
    kind = field.message_type or field.enum_type
    return {
        "number": field.number,
        "type": field.type,
        "repeated": field.is_repeated,
        "packed": field.is_packed,
        "kind": kind.full_name if kind else None,
        "oneof": field.containing_oneof.name if field.containing_oneof else None,
    }


OUR_MESSAGES = all_messages(dict(OURS.message_types_by_name))
THEIR_MESSAGES = all_messages(
    {name: m for file in THEIR_FILES for name, m in file.message_types_by_name.items()}
)
THEIR_ENUMS: dict[str, EnumDescriptor] = dict(their_config.DESCRIPTOR.enum_types_by_name)


@pytest.mark.parametrize("name", sorted(OUR_MESSAGES))
def test_every_field_is_the_public_one(name):
    ours, theirs = OUR_MESSAGES[name], THEIR_MESSAGES[name]
    assert ours.GetOptions().map_entry == theirs.GetOptions().map_entry
    for field in ours.fields:
        assert facts(field) == facts(theirs.fields_by_name[field.name]), field.name


def test_every_enum_value_is_the_public_one():
    for name, enum in OURS.enum_types_by_name.items():
        for value in enum.values:
            assert value.number == THEIR_ENUMS[name].values_by_name[value.name].number


def test_every_method_is_the_public_one():
    ours = OURS.services_by_name["GRPCInferenceService"]
    theirs = their_service.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert ours.full_name == theirs.full_name == messages.SERVICE_NAME
    for method in ours.methods:
        other = theirs.methods_by_name[method.name]
        assert method.input_type.full_name == other.input_type.full_name
        assert method.output_type.full_name == other.output_type.full_name
        assert method.client_streaming == other.client_streaming
        assert method.server_streaming == other.server_streaming


def test_the_committed_descriptor_set_is_compiled_from_the_proto(tmp_path):
    pytest.importorskip("grpc_tools", reason="needs grpcio-tools, of the extra `lint`")
    compiled = tmp_path / "open_inference.binpb"
    command = ["-m", "grpc_tools.protoc", f"-I{PROTO_FOLDER}", f"--descriptor_set_out={compiled}"]
    subprocess.run([sys.executable, *command, "open_inference.proto"], check=True, timeout=60)
    package = resources.files("sangsang.services.runtime.open_inference")
    committed = package.joinpath(messages.DESCRIPTOR_SET).read_bytes()
    parse = descriptor_pb2.FileDescriptorSet.FromString
    # Parsed, because another release of protoc may write the same set in another way.
    assert parse(committed) == parse(compiled.read_bytes())


OUR_IMPORT = "import sangsang.services.runtime.open_inference as ours"
THEIR_IMPORT = "import tritonclient.grpc as theirs"
SAME_BYTES = """
from sangsang.services.runtime.open_inference import messages
sent = theirs.service_pb2.ModelInferRequest(model_name="unet", id="7")
assert messages.ModelInferRequest is not theirs.service_pb2.ModelInferRequest
assert messages.ModelInferRequest.FromString(sent.SerializeToString()).id == "7"
"""
DEFAULT_POOL_IS_EMPTY = """
from google.protobuf import descriptor_pool
try:
    descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
except KeyError:
    raise SystemExit(0)
raise SystemExit("registered in the default pool")
"""


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param((OUR_IMPORT, THEIR_IMPORT, SAME_BYTES), id="ours first"),
        pytest.param((THEIR_IMPORT, OUR_IMPORT, SAME_BYTES), id="tritonclient first"),
        pytest.param((OUR_IMPORT, DEFAULT_POOL_IS_EMPTY), id="default pool untouched"),
    ],
)
def test_both_live_in_one_process(lines):
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
