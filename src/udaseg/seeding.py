"""All randomness comes from (seed, purpose, index), so nothing depends on the order in which numbers are drawn.

A purpose names *what* is drawn ("source.crop", "init.network"), never a method, a recipe or a knob: two runs of equal
seed then see the same images in the same order, which is what paired comparisons rely on.
"""

import hashlib


def seed_for(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed that is a stable hash of its three arguments (equal on every machine and Python version)."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
