"""Run: pytest tests/unit/scheduling/test_fair_line.py"""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from sangsang.orchestrator.scheduling.fair_line import FairLine

WEIGHTS = {"pro": 4.0, "free": 1.0}


def take(line: FairLine[str], cost: float = 1.0) -> str:
    tier, item = next(line.heads())
    assert line.pop(tier, cost) == item
    return item


def test_the_most_urgent_goes_first_and_equals_in_the_order_of_arrival():
    line: FairLine[str] = FairLine(WEIGHTS)
    for name, urgency in (("b", 2.0), ("c", 2.0), ("a", 1.0)):
        line.push(name, tier="free", tenant="t", urgency=urgency)
    assert [take(line) for _ in range(3)] == ["a", "b", "c"]
    assert len(line) == 0


def test_tiers_get_their_shares_while_both_wait():
    line: FairLine[str] = FairLine(WEIGHTS)
    for index in range(100):
        line.push(f"free{index}", tier="free", tenant="t", urgency=0)
        line.push(f"pro{index}", tier="pro", tenant="t", urgency=0)
    taken = Counter(take(line)[:3] for _ in range(50))
    assert abs(taken["pro"] - 40) <= 1


def test_shares_are_of_cost_and_not_of_items():
    line: FairLine[str] = FairLine({})
    for index in range(100):
        line.push(f"big{index}", tier="big", tenant="t", urgency=0)
        line.push(f"low{index}", tier="low", tenant="t", urgency=0)
    taken: Counter[str] = Counter()
    for _ in range(66):
        tier, _item = next(line.heads())
        line.pop(tier, 10.0 if tier == "big" else 1.0)
        taken[tier] += 1
    assert abs(taken["low"] - 60) <= 2


def test_a_flooding_tenant_does_not_hold_up_another():
    line: FairLine[str] = FairLine(WEIGHTS)
    for index in range(100):
        line.push(f"flood{index}", tier="free", tenant="flood", urgency=0)
    for _ in range(50):
        take(line)
    line.push("other", tier="free", tenant="other", urgency=99)
    assert "other" in {take(line), take(line)}


def test_absence_saves_nothing_up():
    line: FairLine[str] = FairLine(WEIGHTS)
    for index in range(200):
        line.push(f"free{index}", tier="free", tenant="t", urgency=0)
    for _ in range(100):
        take(line)
    for index in range(50):
        line.push(f"pro{index}", tier="pro", tenant="t", urgency=0)
    taken = Counter(take(line)[:3] for _ in range(10))
    assert abs(taken["pro"] - 8) <= 1


def test_leaving_and_coming_back_at_once_jumps_nobody():
    line: FairLine[str] = FairLine(WEIGHTS)
    for name in ("a1", "b1", "b2"):
        line.push(name, tier="free", tenant=name[0], urgency=0)
    assert take(line) == "a1"
    line.push("a2", tier="free", tenant="a", urgency=0)
    assert take(line) == "b1"


def test_what_was_removed_never_comes():
    line: FairLine[str] = FairLine(WEIGHTS)
    for name in ("a", "b", "c"):
        line.push(name, tier="free", tenant=name, urgency=0)
    line.remove("a")
    line.remove("c")
    assert len(line) == 1
    assert take(line) == "b"
    assert list(line.heads()) == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("free", "pro", "other")), st.sampled_from("abc"), st.floats(0, 9)
        )
    ),
    st.data(),
)
def test_everyone_who_is_not_removed_comes_once(arrivals, data):
    line: FairLine[int] = FairLine(WEIGHTS)
    for number, (tier, tenant, urgency) in enumerate(arrivals):
        line.push(number, tier=tier, tenant=tenant, urgency=urgency)
    removed = data.draw(st.sets(st.sampled_from(range(len(arrivals))))) if arrivals else set()
    for number in removed:
        line.remove(number)
    taken = []
    while len(line):
        tier, _ = next(line.heads())
        taken.append(line.pop(tier, 1.0))
    assert sorted(taken) == sorted(set(range(len(arrivals))) - removed)


@given(st.integers(1, 6), st.integers(1, 40))
def test_nobody_waits_longer_than_the_tenants_present(tenants, rounds):
    line: FairLine[tuple[int, int]] = FairLine(WEIGHTS)
    for index in range(rounds + 1):
        for tenant in range(tenants):
            line.push((tenant, index), tier="free", tenant=str(tenant), urgency=0)
    waits = dict.fromkeys(range(tenants), 0)
    for _ in range(rounds):
        tier, _ = next(line.heads())
        served, _ = line.pop(tier, 1.0)
        waits = {tenant: 0 if tenant == served else waits[tenant] + 1 for tenant in waits}
        assert max(waits.values()) < tenants


class Naive:
    """The same line, which looks at everyone each time."""

    def __init__(self, weights):
        self.weights, self.items, self.count = weights, [], 0
        self.now, self.clocks = {}, {}

    def push(self, item, *, tier, tenant, urgency):
        for kind, name, present in (
            ("tiers", tier, {one[0] for one in self.items}),
            (tier, tenant, {one[1] for one in self.items if one[0] == tier}),
        ):
            if name not in present:
                clock = self.clocks.get((kind, name), 0.0)
                self.clocks[kind, name] = max(clock, self.now.get(kind, 0.0))
        self.count += 1
        self.items.append((tier, tenant, urgency, self.count, item))

    def first(self, tier):
        own = [one for one in self.items if one[0] == tier]
        tenant = min({one[1] for one in own}, key=lambda name: (self.clocks[tier, name], name))
        return min((one for one in own if one[1] == tenant), key=lambda one: one[2:4])

    def heads(self):
        tiers = {one[0] for one in self.items}
        order = sorted(tiers, key=lambda name: (self.clocks["tiers", name], name))
        return [(tier, self.first(tier)[4]) for tier in order]

    def pop(self, tier, cost):
        one = self.first(tier)
        self.items.remove(one)
        for kind, name, amount in (
            ("tiers", tier, cost / self.weights.get(tier, 1.0)),
            (tier, one[1], cost),
        ):
            self.now[kind] = max(self.now.get(kind, 0.0), self.clocks[kind, name])
            self.clocks[kind, name] += amount
        return one[4]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.booleans(), st.sampled_from("ab"), st.sampled_from("wxyz"), st.sampled_from([1, 2])
        ),
        max_size=60,
    )
)
def test_it_chooses_as_one_that_looks_at_everyone(events):
    line, naive = FairLine({"a": 4.0}), Naive({"a": 4.0})
    for number, (comes, tier, tenant, amount) in enumerate(events):
        if comes or not naive.items:
            for one in (line, naive):
                one.push(number, tier=tier, tenant=tenant, urgency=amount)
        else:
            first = naive.heads()[0][0]
            assert line.pop(first, float(amount)) == naive.pop(first, float(amount))
        assert list(line.heads()) == naive.heads()
        assert len(line) == len(naive.items)
