"""Compares rows of a report: the declared test, its estimates and corrections, the gap closed, the claims."""
