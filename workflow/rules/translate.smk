rule translate:
    # Pictures for people; only the report reads them.
    input:
        parents,
    output:
        "{folder}/run.json",
    wildcard_constraints:
        folder=KINDS["translate"].regex,
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
