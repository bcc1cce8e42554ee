"""The `udaseg` command, and what the Snakefile calls."""
