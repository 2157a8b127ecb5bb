"""What the processes of a benchmark tell each other."""

from peers.lines import from_line, to_line
from peers.outcomes import Ending, Outcome


def test_outcomes_survive_the_pipe_pictures_included():
    outcomes = [
        Outcome("free", Ending.FINISHED, 0.25, 0.5, 0.125, b"\x89PNG\n\x00"),
        Outcome("pro", Ending.FAILED, 1.0, 2.0, detail="it broke\nin two lines"),
    ]
    line = to_line(outcomes)
    assert "\n" not in line
    assert from_line(line) == outcomes
