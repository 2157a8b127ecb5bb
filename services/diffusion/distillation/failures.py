"""What a distillation refuses."""


class CannotDistil(Exception):
    """The model folder or the options do not allow a distillation; says what to change."""
