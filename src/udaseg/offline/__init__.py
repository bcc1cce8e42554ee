"""Passes of a finished network over a data set: pseudo-labels, prototypes, and how good the labels are."""
