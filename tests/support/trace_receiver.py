"""An OTLP receiver in a container: prints one line of JSON for each span that it gets."""

import json
from concurrent.futures import ThreadPoolExecutor

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes what any service exports."""

    def Export(self, request, context):
        for resource in request.resource_spans:
            service = next(
                pair.value.string_value
                for pair in resource.resource.attributes
                if pair.key == "service.name"
            )
            for scope in resource.scope_spans:
                for span in scope.spans:
                    fields = {"service": service, "trace": span.trace_id.hex(), "name": span.name}
                    print(json.dumps(fields), flush=True)
        return trace_service_pb2.ExportTraceServiceResponse()


if __name__ == "__main__":
    # One thread, so that no two lines mix.
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Receiver(), server)
    server.add_insecure_port("0.0.0.0:4317")
    server.start()
    server.wait_for_termination()
