"""Run: pytest tests/unit/test_supervision.py"""

from sangsang.orchestrator.supervision import RestartPolicy, RestartRecord

POLICY = RestartPolicy(first_delay_s=1.0, longest_delay_s=5.0, sound_s=60.0, limit=4)


def test_each_restart_waits_longer_and_then_it_is_given_up():
    record, now_s, delays = RestartRecord(POLICY, 0.0), 0.0, []
    while (delay_s := record.note_end(now_s)) is not None:
        delays.append(delay_s)
        assert not record.is_due(now_s + delay_s - 0.01)
        now_s += delay_s
        assert record.is_due(now_s)
        record.note_start(now_s)
    assert delays == [1.0, 2.0, 4.0, 5.0]
    assert record.given_up
    assert not record.is_due(now_s + 3600.0)


def test_one_that_has_run_for_a_while_begins_anew():
    record, now_s = RestartRecord(POLICY, 0.0), 0.0
    for _ in range(20):
        now_s += 60.0
        assert record.note_end(now_s) == 1.0
        record.note_start(now_s)
    assert not record.given_up


def test_what_runs_is_not_due():
    record = RestartRecord(POLICY, 0.0)
    assert not record.is_due(3600.0)
    record.note_end(1.0)
    record.note_start(2.0)
    assert not record.ended
    assert not record.is_due(3600.0)
