"""What every stage service runs on: engines, errors, tensors, telemetry and the gRPC server."""
