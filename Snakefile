"""The workflow: download -> prepare -> train -> evaluate -> report, and tracking beside it.

The rules only look things up in the plan.

    snakemake --cores all --resources gpu=4
    snakemake --cores all --config study=toytown
    snakemake --cores all --config study=toytown records=yes   # takes what lies in reports/reference as finished
    snakemake --cores all -- data                              # or runs: only so far
"""

import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from udaseg.cli.workflow import open_study
from udaseg.errors import UserError
from udaseg.archive.dvc_snapshot import PARTS

try:
    PLAN = open_study(config.get("study"), sys.argv, workflow.is_main_process, str(config.get("records", "no")))
except UserError as error:
    raise WorkflowError(str(error)) from None

UDASEG = f"{shlex.quote(sys.executable)} -m udaseg.cli.main"


def parents(folder):
    """Markers of the jobs that the job of `folder` needs, but for those that records stand for."""
    return [parent.marker for parent in PLAN.jobs[folder].parents if parent.folder not in PLAN.left_out]


def spec(folder):
    """The file that tells the job of `folder` what to do."""
    return PLAN.jobs[folder].spec_path


report: "workflow/report/workflow.rst"


wildcard_constraints:
    archive=r"[^/]+",
    set=r"[^/]+",
    run=r"[^/]+/[^/]+/[^/]+",
    evaluation=r"[0-9a-f]+",
    labels=r"[0-9a-f]+",
    quality=r"[0-9a-f]+",
    pair=r"[^/]+",
    translation=r"[0-9a-f]+",


rule all:
    input:
        [job.marker for job in PLAN.jobs.values() if job.folder not in PLAN.left_out],
        f"{PLAN.report.folder}/index.html",
        PLAN.tracking_note,


rule data:
    input:
        [job.marker for job in PLAN.jobs.values() if job.kind in PARTS["data"] and job.folder not in PLAN.left_out],


rule runs:
    input:
        [job.marker for job in PLAN.jobs.values() if job.kind in PARTS["runs"] and job.folder not in PLAN.left_out],


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/label.smk"
include: "workflow/rules/translate.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


onsuccess:
    # A job whose existing output is `ancient` for its children can hide children that were never made, and Snakemake
    # then ends with status 0: never call that a success.
    absent = [file for job in workflow.dag.targetjobs for file in job.input if not Path(file).exists()]
    if absent:
        raise WorkflowError(f"planned, but not made: {absent}; start the same command again")


onerror:
    # Whoever goes on past a failed run (-k) wants to see the others: a report is not refused because one run failed. What
    # is missing is a footnote there, the exit status still tells of the failure, and the next call writes it again.
    if {"-k", "--keep-going"} & set(sys.argv):
        shell("{UDASEG} report {PLAN.report.spec_path:q}")
