rule evaluate:
    input:
        lambda wildcards: ancient(parents(f"results/{wildcards.run}/evaluate-{wildcards.evaluation}")),
    output:
        "results/{run}/evaluate-{evaluation}/run.json",
    params:
        spec=lambda wildcards: spec(f"results/{wildcards.run}/evaluate-{wildcards.evaluation}"),
    log:
        "logs/results/{run}/evaluate-{evaluation}.log",
    benchmark:
        "logs/results/{run}/evaluate-{evaluation}.benchmark.tsv"
    threads: lambda wildcards: PLAN.jobs[f"results/{wildcards.run}/evaluate-{wildcards.evaluation}"].spec.threads
    resources:
        gpu=1,
    shell:
        "{UDASEG} evaluate {params.spec:q} > {log:q} 2>&1"
