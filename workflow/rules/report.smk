rule report:
    # The report's files have fixed names and may be out of date, so the marker's name has the plan's hash. The set of
    # figures depends on what the study scores, so their folder is declared.
    input:
        ancient(markers(PLAN.report.parents)),
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
    # Runs after the report, because it also sends the sweeps' tables and figures. Nothing depends on it: if the store
    # is down, it leaves a note, and the next call tries again.
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
