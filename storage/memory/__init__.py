"""Stores that live in memory: the executable specification of the contracts, and what tests run on."""
