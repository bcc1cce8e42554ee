rule train:
    # Only the marker is declared: Snakemake deletes the declared outputs of a job that fails, and checkpoints must stay.
    input:
        lambda wildcards: ancient(parents(f"results/{wildcards.run}")),
    output:
        "results/{run}/run.json",
    params:
        spec=lambda wildcards: spec(f"results/{wildcards.run}"),
    log:
        "logs/results/{run}.log",
    benchmark:
        "logs/results/{run}.benchmark.tsv"
    threads: lambda wildcards: PLAN.jobs[f"results/{wildcards.run}"].spec.train.threads
    resources:
        gpu=1,  # a count for the scheduler; which device it is, the job settles by locks
    shell:
        "{UDASEG} train {params.spec:q} > {log:q} 2>&1"
