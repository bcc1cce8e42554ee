"""The workflow: download -> prepare -> train -> evaluate -> report, and then tracking.

The rules only look things up in the plan.

    snakemake --cores all --resources gpu=4
    snakemake --cores all --config study=toytown
    snakemake --cores all --config study=toytown records=yes   # jobs recorded in reports/reference count as finished
    snakemake --cores all -- data                              # only the data sets; -- runs: everything but the report
"""

import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from udaseg.archive.dvc_snapshot import PARTS
from udaseg.cli.workflow import open_study
from udaseg.errors import UserError
from udaseg.runs.kinds import KINDS
from udaseg.runs.spec import exactness

try:
    PLAN = open_study(config.get("study"), sys.argv[1:], workflow.is_main_process, str(config.get("records", "no")))
except UserError as error:
    raise WorkflowError(str(error)) from None

UDASEG = f"{shlex.quote(sys.executable)} -m udaseg.cli.main"


def markers(jobs):
    """Markers of the jobs that records do not replace."""
    return [job.marker for job in jobs if job.folder not in PLAN.left_out]


def parents(wildcards):
    """Markers of the jobs that this one needs. Their times do not matter: a marker that exists means a finished job."""
    return ancient(markers(PLAN.jobs[wildcards.folder].parents))


def spec(wildcards):
    """The file with this job's configuration."""
    return PLAN.jobs[wildcards.folder].spec_path


def cpus(wildcards):
    """PyTorch's threads in this job, which are part of its spec."""
    return exactness(PLAN.jobs[wildcards.folder].spec).threads


report: "workflow/report/workflow.rst"


rule all:
    input:
        markers(PLAN.jobs.values()),
        f"{PLAN.report.folder}/index.html",
        PLAN.tracking_note,


rule data:
    input:
        markers(job for job in PLAN.jobs.values() if job.kind in PARTS["data"]),


rule runs:
    input:
        markers(job for job in PLAN.jobs.values() if job.kind in PARTS["runs"]),


include: "workflow/rules/data.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/report.smk"


onsuccess:
    # A job whose existing output is `ancient` for its children can hide children that were never made. Snakemake then
    # ends with status 0, which is not a success.
    absent = [file for job in workflow.dag.targetjobs for file in job.input if not Path(file).exists()]
    if absent:
        raise WorkflowError(f"planned, but not made: {absent}; start the same command again")


onerror:
    # With --keep-going, a failed run does not stop the others, and the report shows a footnote for it. The exit status
    # still says that a run failed, and the next call writes the report again.
    if workflow.execution_settings.keep_going:
        shell("{UDASEG} report {PLAN.report.spec_path:q}")
