"""Prepared sets: decoded, checked, mapped and resized once; and pseudo-labels."""
