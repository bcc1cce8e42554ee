rule report:
    # The report has fixed names, so that its existence is not its freshness: the marker's name holds the plan's hash.
    # Which figures there are depends on what the study scores, so they are declared by the folder.
    input:
        ancient(parents(PLAN.report.folder)),
    output:
        PLAN.report.marker,
        page=report(f"{PLAN.report.folder}/index.html", caption="../report/page.rst", category="Page"),
        figures=report(
            directory(f"{PLAN.report.folder}/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        tables=report(
            directory(f"{PLAN.report.folder}/tables"),
            patterns=["{table}.csv"],
            caption="../report/tables.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    params:
        spec=PLAN.report.spec_path,
    log:
        f"logs/reports/{PLAN.study}.log",
    benchmark:
        f"logs/reports/{PLAN.study}.benchmark.tsv"
    shell:
        "{UDASEG} report {params.spec:q} > {log:q} 2>&1"


rule track:
    # After the report, whose tables and figures of a sweep go along. Nothing depends on it: a store that is down leaves a
    # note and is tried again by the next call.
    input:
        ancient(PLAN.report.marker),
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
