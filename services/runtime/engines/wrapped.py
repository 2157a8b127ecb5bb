"""An engine around another: whatever it does not change is the other's."""

from collections.abc import Mapping

from .engine import Array, Engine, TensorSpec, padding_row_count


class WrappedEngine:
    """Passes everything on; subclasses do something around `infer`.

    Args:
        engine: the engine within.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def backend(self) -> str:
        return self._engine.backend

    @property
    def precision(self) -> str:
        return self._engine.precision

    @property
    def digest(self) -> str:
        return self._engine.digest

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._engine.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._engine.outputs

    @property
    def padding_row_count(self) -> int:
        return padding_row_count(self._engine)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output for a batch; see `Engine.infer`."""
        return self._engine.infer(inputs)

    def close(self) -> None:
        """Frees the engine within."""
        self._engine.close()
