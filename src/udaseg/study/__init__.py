"""From params.yaml and a study's overlay to resolved recipes, sweeps and claims."""
