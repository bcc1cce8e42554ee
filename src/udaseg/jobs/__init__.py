"""From resolved recipes to jobs: what there is to do, where it lies, and a fingerprint of the code that does it."""
