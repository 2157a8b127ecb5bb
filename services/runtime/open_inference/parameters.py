"""The parameters that a request can carry: one is honoured, a few are refused, others are skipped.

A parameter that would change what is computed or where the bytes lie is refused, because skipping
it would give the caller something else than it asked for. Hints that other clients and proxies add
are skipped, as the protocol allows.
"""

from collections.abc import Iterator, Mapping

from ..errors import FieldViolation
from .messages import Proto

MICROSECONDS_PER_SECOND = 1_000_000

_SHARED_MEMORY = {"shared_memory_region": "shared memory is not served; use raw contents"}
_REFUSED_IN_REQUEST = {
    "sequence_id": "sequences are not served; every request stands alone",
    "sequence_start": "sequences are not served; every request stands alone",
    "sequence_end": "sequences are not served; every request stands alone",
    "priority": "priorities are not served here",
}
_REFUSED_IN_OUTPUT = {**_SHARED_MEMORY, "classification": "classification is not served"}


def timeout_s(request: Proto) -> float | None:
    """Returns the time that a checked request gives its inference; None if it sets no limit."""
    timeout_us = _value(request.parameters, "timeout")
    return float(timeout_us) / MICROSECONDS_PER_SECOND if timeout_us else None


def parameter_violations(request: Proto) -> list[FieldViolation]:
    """Returns what is wrong with the parameters of a request, its inputs and its outputs."""
    return [
        *_timeout_violations(request.parameters),
        *_refused("parameters", request.parameters, _REFUSED_IN_REQUEST),
        *_refused_in_each("inputs", request.inputs, _SHARED_MEMORY),
        *_refused_in_each("outputs", request.outputs, _REFUSED_IN_OUTPUT),
    ]


def _timeout_violations(parameters: Proto) -> Iterator[FieldViolation]:
    value = _value(parameters, "timeout")
    # bool is an int in Python, but `true` microseconds is a mistake.
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return
    yield FieldViolation("parameters[timeout]", "must be a whole number of microseconds, 0 or more")


def _refused_in_each(
    field: str, tensors: Proto, refused: Mapping[str, str]
) -> Iterator[FieldViolation]:
    for index, tensor in enumerate(tensors):
        yield from _refused(f"{field}[{index}].parameters", tensor.parameters, refused)


def _refused(field: str, parameters: Proto, refused: Mapping[str, str]) -> Iterator[FieldViolation]:
    """Yields the refused parameters that are set to anything but 0, false or empty."""
    for name, description in refused.items():
        if _value(parameters, name):
            yield FieldViolation(f"{field}[{name}]", description)


def _value(parameters: Proto, name: str) -> bool | int | float | str | None:
    # Reading a missing key of a protobuf map would add it.
    if name not in parameters:
        return None
    choice = parameters[name].WhichOneof("parameter_choice")
    return getattr(parameters[name], choice) if choice else None
