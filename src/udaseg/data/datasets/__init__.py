"""The data sets there are: one file each."""
