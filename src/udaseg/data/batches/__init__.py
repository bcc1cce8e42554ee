"""From prepared sets to batches: samplers, views, streams."""
