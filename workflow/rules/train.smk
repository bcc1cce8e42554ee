rule train:
    # Only the marker is declared: Snakemake deletes the declared outputs of a job that fails, and checkpoints must stay.
    input:
        parents,
    output:
        "{folder}/run.json",
    wildcard_constraints:
        folder=KINDS["train"].regex,
    params:
        spec=spec,
    log:
        "logs/{folder}.log",
    benchmark:
        "logs/{folder}.benchmark.tsv"
    threads: cpus
    resources:
        gpu=1,  # a count for the scheduler; the job itself takes a free device
    shell:
        JOB
