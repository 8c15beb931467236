"""Who can be reached, how fast, and when: on a virtual clock, so that nobody waits."""
