"""A diffusion replica that is stopped in the middle of its work and goes on later.

Run: pytest tests/faults/test_stopped.py
"""

import signal


async def test_callers_go_elsewhere_and_late_answers_harm_nobody(pair):
    async with pair.load() as load:
        await load.more(24)
        pair.kill("diffusion", signal.SIGSTOP)
        # Whoever was on the stopped replica as well: their calls have moved.
        await load.everyone(2)
        pair.kill("diffusion", signal.SIGCONT)
        await pair.serves("diffusion")
        await load.more(24)
    assert load.failures == []
    load.check_pictures()
    assert "diffusion" not in {end.name for end in pair.ends if end.code not in (0, -9)}, (
        "its watchdog does not take the stop for a hang"
    )
