rule report:
    # The report has fixed names, so that its existence is not its freshness: the marker's name holds the plan's hash.
    input:
        ancient(parents(PLAN.report.folder)),
    output:
        PLAN.report.marker,
    params:
        spec=PLAN.report.spec_path,
    log:
        f"logs/reports/{PLAN.study}.log",
    benchmark:
        f"logs/reports/{PLAN.study}.benchmark.tsv"
    shell:
        "{UDASEG} report {params.spec:q} > {log:q} 2>&1"


rule track:
    # Nothing depends on it: a store that is down leaves a note and is tried again by the next call.
    input:
        ancient(parents(PLAN.report.folder)),
    output:
        PLAN.tracking_note,
    params:
        spec=PLAN.report.spec_path,
    log:
        f"logs/tracking/{PLAN.study}.log",
    benchmark:
        f"logs/tracking/{PLAN.study}.benchmark.tsv"
    shell:
        "{UDASEG} track {params.spec:q} > {log:q} 2>&1"
