"""Finished jobs held against recorded ones: the match, the differences, the certificate."""
