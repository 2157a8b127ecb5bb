"""The Open Inference Protocol (KServe v2, Triton) for the engines of a stage."""

from .served_engine import EngineRunner, ServedEngine, WorkerRunner
from .servicer import ServerIdentity, open_inference_handler

__all__ = [
    "EngineRunner",
    "ServedEngine",
    "ServerIdentity",
    "WorkerRunner",
    "open_inference_handler",
]
