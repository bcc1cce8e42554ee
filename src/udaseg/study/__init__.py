"""From params.yaml and a study's overlay to resolved recipes, sweeps and claims.

`load` reads the files; `resolve` fills everything in, each stage once, and refuses what cannot work. The plan makes
jobs of the result.
"""
