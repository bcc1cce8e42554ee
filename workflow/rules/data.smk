rule prepare:
    # A set is addressed by its declared spec, so that the plan is known before anything is downloaded.
    output:
        "data/sets/{set}/set.json",
    params:
        spec=lambda wildcards: spec(f"data/sets/{wildcards.set}"),
    log:
        "logs/data/sets/{set}.log",
    benchmark:
        "logs/data/sets/{set}.benchmark.tsv"
    shell:
        "{UDASEG} prepare {params.spec:q} > {log:q} 2>&1"
