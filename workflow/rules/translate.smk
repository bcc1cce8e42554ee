rule translate:
    # Pictures for people; only the report reads them.
    input:
        lambda wildcards: ancient(parents(f"results/{wildcards.pair}/translation-{wildcards.translation}")),
    output:
        "results/{pair}/translation-{translation}/run.json",
    params:
        spec=lambda wildcards: spec(f"results/{wildcards.pair}/translation-{wildcards.translation}"),
    log:
        "logs/results/{pair}/translation-{translation}.log",
    benchmark:
        "logs/results/{pair}/translation-{translation}.benchmark.tsv"
    threads: lambda wildcards: PLAN.jobs[f"results/{wildcards.pair}/translation-{wildcards.translation}"].spec.threads
    resources:
        gpu=1,
    shell:
        "{UDASEG} translate {params.spec:q} > {log:q} 2>&1"
