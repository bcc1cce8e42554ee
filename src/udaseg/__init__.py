"""Unsupervised domain adaptation for semantic segmentation: one exactly re-runnable pipeline for many methods."""

__version__ = "0.1.0"
