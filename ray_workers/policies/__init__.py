"""Decisions as values: frozen facts in, an answer out; no clock, no I/O, no logging."""
