"""Prefect tasks of Pawl: one verb a file, the only code that knows both Prefect and the core."""
