"""Wiring: the `pawl` command, and what a deployment puts in place."""
