"""What can go wrong while profiling that whoever runs it can mend."""


class CannotProfile(Exception):
    """The machine or the arguments do not allow it; the message says what to do."""
