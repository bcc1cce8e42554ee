rule download:
    # The folder appears by rename, when every file in it is verified. Compute nodes often have no network.
    localrule: True
    output:
        directory("{folder}"),
    wildcard_constraints:
        folder=KINDS["download"].regex,
    params:
        spec=spec,
    log:
        "logs/{folder}.log",
    benchmark:
        "logs/{folder}.benchmark.tsv"
    shell:
        "{UDASEG} download {params.spec:q} > {log:q} 2>&1"


rule prepare:
    # A set is addressed by its declared spec, so that the plan is known before anything is downloaded.
    input:
        parents,
    output:
        "{folder}/set.json",
    wildcard_constraints:
        folder=KINDS["prepare"].regex,
    params:
        spec=spec,
    log:
        "logs/{folder}.log",
    benchmark:
        "logs/{folder}.benchmark.tsv"
    shell:
        "{UDASEG} prepare {params.spec:q} > {log:q} 2>&1"
