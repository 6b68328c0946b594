"""Who orders which certificate when: the part of certificate work that all nodes of a cluster do together."""
