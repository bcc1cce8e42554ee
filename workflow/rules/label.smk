rule label:
    input:
        parents,
    output:
        "{folder}/run.json",
    wildcard_constraints:
        folder=KINDS["label"].regex,
    params:
        spec=spec,
    log:
        "logs/{folder}.log",
    benchmark:
        "logs/{folder}.benchmark.tsv"
    threads: cpus
    resources:
        gpu=1,
    shell:
        JOB


rule quality:
    # Beside the labels that it judges; only the report reads it.
    input:
        parents,
    output:
        "{folder}/run.json",
    wildcard_constraints:
        folder=KINDS["quality"].regex,
    params:
        spec=spec,
    log:
        "logs/{folder}.log",
    benchmark:
        "logs/{folder}.benchmark.tsv"
    shell:
        JOB
