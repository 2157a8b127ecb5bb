"""Who runs where, and when: the policy, without a clock, a socket or a thread of its own."""
