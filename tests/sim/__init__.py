"""The whole cluster layer on a virtual clock and network, repeatable from a seed: ``python -m tests.sim``."""
