"""What is wrong with a request before its bytes are looked at: counts, names and parameters."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from ..engines.engine import Engine, TensorSpec
from ..errors import FieldViolation, InvalidRequest
from .messages import Proto
from .parameters import parameter_violations

# Violations travel in trailers, which gRPC limits to 8 KiB.
MAX_VIOLATIONS = 8
MAX_NAME_CHARS = 80
MAX_LIST_CHARS = 300


def refuse(violations: Iterable[FieldViolation]) -> None:
    """Raises InvalidRequest with the first few violations, if there are any."""
    shown = list(islice(violations, MAX_VIOLATIONS))
    if shown:
        raise InvalidRequest(shown)


def check_structure(request: Proto, engine: Engine) -> None:
    """Checks everything but the tensors.

    Raises:
        InvalidRequest: names all that is wrong.
    """
    # Counts first: nothing after this walks a list that is longer than the model's own.
    refuse(_count_violations(request, engine))
    refuse(
        [
            *_name_violations("input", request.inputs, engine.inputs),
            *_missing_inputs(request.inputs, engine.inputs),
            *_name_violations("output", request.outputs, engine.outputs),
            *parameter_violations(request),
        ]
    )


def _count_violations(request: Proto, engine: Engine) -> Iterator[FieldViolation]:
    input_count, raw_count = len(request.inputs), len(request.raw_input_contents)
    if input_count > len(engine.inputs):
        yield FieldViolation("inputs", f"expected {len(engine.inputs)}, got {input_count}")
    if len(request.outputs) > len(engine.outputs):
        yield FieldViolation(
            "outputs", f"expected at most {len(engine.outputs)}, got {len(request.outputs)}"
        )
    if raw_count not in (0, input_count):
        yield FieldViolation(
            "raw_input_contents",
            f"expected {input_count}, one for each input, or none; got {raw_count}",
        )


def _name_violations(
    kind: str, tensors: Proto, specs: Sequence[TensorSpec]
) -> Iterator[FieldViolation]:
    known = [spec.name for spec in specs]
    seen: set[str] = set()
    for index, tensor in enumerate(tensors):
        field = f"{kind}s[{index}].name"
        if tensor.name not in known:
            shown = ", ".join(known)[:MAX_LIST_CHARS]
            yield FieldViolation(
                field, f"no {kind} {tensor.name[:MAX_NAME_CHARS]!r}; {kind}s: {shown}"
            )
        elif tensor.name in seen:
            yield FieldViolation(field, f"{tensor.name} is named twice")
        seen.add(tensor.name)


def _missing_inputs(tensors: Proto, specs: Sequence[TensorSpec]) -> Iterator[FieldViolation]:
    given = {tensor.name for tensor in tensors}
    for spec in specs:
        if spec.name not in given and not spec.optional:
            yield FieldViolation("inputs", f"{spec.name} is missing")
