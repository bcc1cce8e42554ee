"""Run folders: files, the marker that makes a folder whole, the spec that a job reads, and records."""
