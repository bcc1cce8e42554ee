"""The report of a study, built from run folders and nothing else."""
