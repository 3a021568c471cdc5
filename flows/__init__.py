"""Flows of Pawl: one `@flow` a file, each a table of contents in code."""
