# The kinds of jobs below results/ differ in their folders and in their resources.


rule train:
    # Only the marker is declared: Snakemake deletes the declared outputs of a job that fails, and checkpoints must stay.
    input:
        parents,
    output:
        "{folder}/run.json",
    wildcard_constraints:
        folder=KINDS["train"].regex,
    params:
        verb=lambda wildcards: PLAN.jobs[wildcards.folder].kind,
        spec=spec,
    log:
        "logs/{folder}.log",
    benchmark:
        "logs/{folder}.benchmark.tsv"
    threads: cpus
    resources:
        gpu=1,  # a count for the scheduler; the job itself takes a free device
    shell:
        "{UDASEG} {params.verb:q} {params.spec:q} > {log:q} 2>&1"


use rule train as label with:
    wildcard_constraints:
        folder=KINDS["label"].regex,


use rule train as evaluate with:
    wildcard_constraints:
        folder=KINDS["evaluate"].regex,


# Writes pictures; only the report reads them.
use rule train as translate with:
    wildcard_constraints:
        folder=KINDS["translate"].regex,


# Scores pseudo-labels and writes beside them; only the report reads it.
use rule train as quality with:
    wildcard_constraints:
        folder=KINDS["quality"].regex,
    threads: 1
    resources:
        gpu=0,
