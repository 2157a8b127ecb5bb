"""What an endpoint serves, asked of the endpoint alone: no generated code, no protos.

It is what `grpcurl -plaintext HOST:PORT list` and `describe` do, and a call of `ListModels`.
"""

import sys
from argparse import ArgumentParser

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToJson
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SERVICE = "sangsang.imaging.v1.ImageGenerationService"

parser = ArgumentParser(description=__doc__)
parser.add_argument("--address", default="127.0.0.1:50050", help="of the mesh, or of a stage")
address = parser.parse_args().address
with grpc.insecure_channel(address) as channel:
    try:
        grpc.channel_ready_future(channel).result(timeout=10)
    except grpc.FutureTimeoutError:
        sys.exit(f"nobody answers at {address}; start a mesh with `sangsang up`")
    known = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(known)
    services = [pool.FindServiceByName(name) for name in known.get_services()]
    for service in services:
        print(service.full_name)
        for method in service.methods:
            stream = "stream " if method.server_streaming else ""
            print(f"  {method.name}({method.input_type.name}) -> {stream}{method.output_type.name}")
    if SERVICE in {service.full_name for service in services}:
        method = pool.FindServiceByName(SERVICE).FindMethodByName("ListModels")
        asked = GetMessageClass(method.input_type)
        answered = GetMessageClass(method.output_type)
        call = channel.unary_unary(
            f"/{SERVICE}/ListModels",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )
        print(MessageToJson(call(asked(), timeout=10)))
