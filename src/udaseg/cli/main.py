"""The `udaseg` command. Snakemake's rules call its verbs, and they can be called by hand."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from udaseg import __version__
from udaseg.errors import Interrupted, UserError

EXAMPLES = """examples:
  udaseg plan                         list the jobs of the default study: which are done, what the others will take
  udaseg plan --sweep pipa_terms      what one sweep needs and costs, before a study lists it
  udaseg plan --study toytown --write write the jobs' specs to state/specs/, for the verbs below
  udaseg train state/specs/SPEC.yaml  train one run by hand; run the same command again to resume
  udaseg predict --run RUN --output maps/ street1.png street2.png
  udaseg keep --study toytown         copy its records and report to reports/reference, for git
  udaseg verify --study toytown       compare the runs made here with the recorded ones and write a certificate
  udaseg gc --delete                  remove the folders that no study plans
"""
PLAN = """List the jobs of a study in an order in which they can run: whether each one is done; how many later jobs
and recipes need it, if more than one recipe or seed does; the hours and the disk space it took or will take. Then come
the sums over the jobs to do, and the points of sweeps that are skipped, with the reason. Each number has an origin:
  measured   from this job, or from the newest finished job that did the same work on the same device
  derived    from a finished job that differs in what a line below the table names, or a computed bound
  elsewhere  as above, but measured on another device, which a line below the table names
  unknown    nothing similar has run here
"""
KEEP = """Copy what git keeps of a study to reports/reference/STUDY: the spec, metrics, history, cost and run.json of
each finished job (no weights, no pictures), and the report made from them, with its spec. Unfinished jobs are listed,
and are footnotes in the report; records that the study no longer plans are removed. With these files anyone can make
the report again, or continue the study without repeating what is finished:
  udaseg report reports/reference/STUDY/report.yaml
  snakemake --cores all --config study=STUDY records=yes
"""
VERIFY = """Compare the finished jobs of a study with recorded ones, and write a certificate with the verdicts, the
largest differences, and the code and environment of both sides:
  identical         all checksums are equal
  within tolerance  files differ, but no mIoU by more than the tolerance
  differs           at least one mIoU differs by more
  not compared      not finished here, or no job with the same configuration is on record; the reason is given
A job without a score of its own gets the worst verdict of the jobs made from it. If the code has changed, hashes
differ, and jobs are matched by their configuration. The exit status is 0 if something was compared and nothing differs.
"""
SNAPSHOT = """Make one part of snapshot/ equal to what the study plans. It then has no other files, and nothing that
depends on the clock. Every stage of dvc.yaml ends with this command.
  plan    the lists of jobs from which DVC knows whether to run a stage again
  data    the prepared data sets
  runs    trainings, pseudo-labels, translations and scores
  report  the report, and the tables for `dvc metrics` and `dvc plots` in reports/dvc
"""


SPEC = "state/specs/NAME.yaml"  # in the examples


def main(arguments: list[str] | None = None) -> int:
    """Run a verb and return the exit status. Errors that the user can fix are printed without a traceback.

    0: done; 1: an error to fix; 2: a wrong command line; 75 (EX_TEMPFAIL): stopped in an orderly way by SIGTERM or
    SIGUSR1, and the same command resumes; 130: Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run_verb(options)
    except UserError as error:
        print(f"udaseg {options.verb}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        from udaseg.runs.files import REFUSALS, refused

        if error.errno not in REFUSALS:
            raise
        print(f"udaseg {options.verb}: {refused(error)}", file=sys.stderr)
        return 1
    except Interrupted as stopped:
        print(f"udaseg {options.verb}: {stopped}", file=sys.stderr)
        return os.EX_TEMPFAIL
    except KeyboardInterrupt:
        print(f"udaseg {options.verb}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    from udaseg.cli import job_commands, study_commands
    from udaseg.runs.kinds import KINDS

    parser = argparse.ArgumentParser(
        prog="udaseg",
        description="Unsupervised domain adaptation for semantic segmentation, exactly re-runnable.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"udaseg {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, run: Callable[[argparse.Namespace], None], text: str, example: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text, formatter_class=parser.formatter_class)
        verb.epilog = f"example:\n  udaseg {name} {example}"
        verb.set_defaults(run_verb=run)
        return verb

    _plan(add("plan", study_commands.plan, "List the jobs of a study, and what they will take.", "--study toytown"))
    own = {"download": job_commands.download, "report": job_commands.report}  # which publish their results themselves
    jobs = [
        add(name, own.get(name, job_commands.run_job), str(kind.spec.__doc__), SPEC) for name, kind in KINDS.items()
    ]
    jobs.append(add("track", job_commands.track, "Send the finished runs of a study to MLflow.", SPEC))
    for verb in jobs:
        verb.add_argument("spec", type=Path, help="a spec written by `udaseg plan --write`")
    example = "--run results/a-b/dann/seed=0-0123456789 --output maps/ *.png"
    _predict(add("predict", job_commands.predict, "Write label maps and overlays for your own images.", example))
    text = "Copy a study's records and report to where git keeps them."
    _study(add("keep", study_commands.keep, text, "--study toytown"), KEEP)
    text = "Print every knob and loss weight of methods with its default."
    knobs = add("knobs", study_commands.knobs, text, "dacs")
    knobs.add_argument("methods", nargs="*", metavar="METHOD", help="default: all")
    knobs.add_argument("--write", action="store_true", help="write those of all methods to workflow/methods.yaml")
    _verify(add("verify", study_commands.verify, "Compare a rerun with a recorded result.", "--study toytown"))
    snapshot = add("snapshot", study_commands.snapshot, "Make a part of what DVC versions equal to the plan.", "runs")
    _study(snapshot, SNAPSHOT)
    snapshot.add_argument("part", choices=["plan", "data", "runs", "report"])
    add("devices", study_commands.devices, "Print the number of GPUs, for `--resources gpu=…`.", "")
    collect = add("gc", study_commands.gc, "List or remove the folders that no study plans.", "--delete")
    collect.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    collect.add_argument("--delete", action="store_true", help="remove them; otherwise they are only listed")
    return parser


def _plan(parser: argparse.ArgumentParser) -> None:
    _study(parser, PLAN)
    parser.add_argument(
        "--records",
        action="store_true",
        help="as with `--config records=yes`: jobs that need not run because reports/reference has their numbers are "
        "`kept`, and not part of the sums",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--sweep", metavar="NAME", help="only what this sweep needs, whether or not the study lists it")
    mode.add_argument(
        "--write",
        action="store_true",
        help="write the jobs' specs to state/specs/, and print their paths instead of what the jobs will take",
    )


def _predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--weights", choices=["last", "best"], default="last", help="default: last")
    parser.add_argument(
        "--scores", action="store_true", help="also write class probabilities, NAME.npy (C, H, W) float16"
    )
    parser.add_argument(
        "--ids", type=Path, help="YAML file `class name: id` for the label maps; default: the study's order, 0, 1, …"
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")


def _verify(parser: argparse.ArgumentParser) -> None:
    _study(parser, VERIFY)
    parser.add_argument(
        "--recorded",
        type=Path,
        metavar="FOLDER",
        help="a folder with the layout of results/, such as another clone's or snapshot/results; "
        "default: reports/reference/STUDY/runs",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="POINTS",
        help="percentage points by which an mIoU may differ; 0: files must be identical; default: 1, about the "
        "standard deviation between seeds",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.json",
        help="default: reports/certificates/STUDY.json; FILE.md is written too",
    )


def _study(parser: argparse.ArgumentParser, description: str) -> None:
    parser.description = description
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    parser.add_argument(
        "--study", help="a file of workflow/studies/, without .yaml; default: the one that params.yaml names"
    )


if __name__ == "__main__":
    sys.exit(main())
