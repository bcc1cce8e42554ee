"""Reads run folders: the facts of a study, one frame of its scores, and the published figures."""
