"""The Open Inference Protocol (KServe v2, Triton) for the engines of a stage."""

from .handler import open_inference_handler
from .served_engine import EngineRunner, ServedEngine, WorkerRunner
from .servicer import ServerIdentity

__all__ = [
    "EngineRunner",
    "ServedEngine",
    "ServerIdentity",
    "WorkerRunner",
    "open_inference_handler",
]
