rule label:
    input:
        lambda wildcards: ancient(parents(f"results/{wildcards.run}/label-{wildcards.labels}")),
    output:
        "results/{run}/label-{labels}/run.json",
    params:
        spec=lambda wildcards: spec(f"results/{wildcards.run}/label-{wildcards.labels}"),
    log:
        "logs/results/{run}/label-{labels}.log",
    benchmark:
        "logs/results/{run}/label-{labels}.benchmark.tsv"
    threads: lambda wildcards: PLAN.jobs[f"results/{wildcards.run}/label-{wildcards.labels}"].spec.threads
    resources:
        gpu=1,
    shell:
        "{UDASEG} label {params.spec:q} > {log:q} 2>&1"


rule quality:
    # Beside the labels that it judges; only the report reads it.
    input:
        lambda wildcards: ancient(
            parents(f"results/{wildcards.run}/label-{wildcards.labels}/quality-{wildcards.quality}")
        ),
    output:
        "results/{run}/label-{labels}/quality-{quality}/run.json",
    params:
        spec=lambda wildcards: spec(f"results/{wildcards.run}/label-{wildcards.labels}/quality-{wildcards.quality}"),
    log:
        "logs/results/{run}/label-{labels}/quality-{quality}.log",
    benchmark:
        "logs/results/{run}/label-{labels}/quality-{quality}.benchmark.tsv"
    shell:
        "{UDASEG} quality {params.spec:q} > {log:q} 2>&1"
