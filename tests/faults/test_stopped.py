"""A diffusion replica that is stopped in the middle of its work and goes on later.

Run: pytest tests/faults/test_stopped.py
"""

import signal


async def test_callers_go_elsewhere_and_late_answers_harm_nobody(pair):
    first_end = len(pair.ends)
    async with pair.load() as load:
        await load.more(24)
        await pair.stop("diffusion")
        # Whoever was on the stopped replica as well: their calls have moved.
        await load.everyone(2)
        pair.kill("diffusion", signal.SIGCONT)
        await pair.serves("diffusion")
        await load.more(24)
    assert load.failures == []
    load.check_pictures()
    assert pair.ends[first_end:] == [], "its watchdog does not take the stop for a hang"
