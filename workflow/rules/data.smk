rule download:
    # The folder appears by rename, when every file in it is verified. Compute nodes often have no network.
    localrule: True
    output:
        directory("data/downloads/{archive}"),
    params:
        spec=lambda wildcards: spec(f"data/downloads/{wildcards.archive}"),
    log:
        "logs/data/downloads/{archive}.log",
    benchmark:
        "logs/data/downloads/{archive}.benchmark.tsv"
    shell:
        "{UDASEG} download {params.spec:q} > {log:q} 2>&1"


rule prepare:
    # A set is addressed by its declared spec, so that the plan is known before anything is downloaded.
    input:
        lambda wildcards: ancient(parents(f"data/sets/{wildcards.set}")),
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
