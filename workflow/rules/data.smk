rule download:
    # The folder is renamed into place once every file is verified. Local, because compute nodes often have no network.
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
    # A set is addressed by its declared spec, so the plan is known before anything is downloaded.
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
