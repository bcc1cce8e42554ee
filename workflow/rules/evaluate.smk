rule evaluate:
    input:
        parents,
    output:
        "{folder}/run.json",
    wildcard_constraints:
        folder=KINDS["evaluate"].regex,
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
