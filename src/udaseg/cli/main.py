"""The `udaseg` command. Each verb is what a Snakemake rule calls, and can be called by hand."""

import argparse
import os
import sys
from pathlib import Path

from udaseg import __version__
from udaseg.errors import Interrupted, UserError

EXAMPLES = """examples:
  udaseg plan                         the jobs of the default study: what is done, and what the others will take
  udaseg plan --sweep pipa_terms      what one sweep needs and costs, before a study lists it
  udaseg plan --study toytown --write write their specs to state/specs/, for the verbs below
  udaseg train state/specs/SPEC.yaml  train one run by hand; the same command again goes on where it was stopped
  udaseg predict --run RUN --output maps/ street1.png street2.png
  udaseg keep --study toytown         put its records and report below reports/reference, for git
  udaseg verify --study toytown       hold what ran here against what is on record, and write a certificate
  udaseg gc --delete                  remove folders that no study plans
"""
PLAN = """Print the jobs of a study in the order in which they can run: whether each is done; how many later
jobs and recipes need it, where more than one recipe or seed do; the hours and the disk it took or will take; and
the sums of what is to do, and which points of sweeps are skipped, and why. Each number says where it is from:
  measured   this job's own, or of the newest finished job that did the same work on such a device
  derived    of a finished job that differs in what a line below the table names, or a bound that was computed
  elsewhere  as these two, but there is only a measurement on another device, which a line below the table names
  unknown    nothing like it has run here
"""
KEEP = """Put what git keeps of a study below reports/reference/STUDY: of each finished job its spec, metrics, history,
cost and run.json (no weights, no pictures), and the report that is made of these, with its spec. What is not finished
is named and a footnote in the report; what the study has no longer is removed there. From that anybody makes the report
again, or goes on with the study without what it has finished:
  udaseg report reports/reference/STUDY/report.yaml
  snakemake --cores all --config study=STUDY records=yes
"""
VERIFY = """Hold the finished jobs of a study against recorded ones, and write a certificate with the verdicts, the
largest differences and what the two were made with:
  identical         all checksums agree
  within tolerance  bytes differ, but no mIoU by more than the tolerance
  differs           one does
  not compared      it is not finished here, or nothing that was told the same is on record; each with the reason
A job without a score of its own has the worst verdict of what was made from it. Code that changed since gives other
hashes; then the counterpart is what was told the same. The status is 0 where something is compared and nothing differs.
"""
SNAPSHOT = """Make a part of snapshot/ equal to what the study plans: nothing else is there, and nothing that a clock
measured. The stages of dvc.yaml end with it.
  plan    the jobs of the other parts, by which DVC knows whether to make them again
  data    the prepared sets
  runs    trainings, pseudo-labels and scores
  report  the report, and the tables of `dvc metrics` and `dvc plots` in reports/dvc
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; the exit status. What a user can put right is printed without a traceback.

    0: done; 1: something is to be put right; 2: a wrong command line; 75 (EX_TEMPFAIL): stopped by SIGTERM or SIGUSR1
    in an orderly way, so that the same command goes on; 130: Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        from udaseg.cli import job_commands as verbs
        from udaseg.cli import study_commands as study_verbs

        (getattr(study_verbs, options.verb, None) or getattr(verbs, options.verb))(options)
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
    parser = argparse.ArgumentParser(
        prog="udaseg",
        description="Unsupervised domain adaptation for semantic segmentation, exactly re-runnable.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"udaseg {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name, help=text, description=text, epilog=f"example:\n  {example}", formatter_class=parser.formatter_class
        )

    _plan(add("plan", "Print the jobs of a study, and what they will take.", "udaseg plan --study toytown"))
    for name, text in (
        ("download", "Fetch, verify and unpack the archive of a data set."),
        ("prepare", "Decode, check, map and resize one data set."),
        ("train", "Train one stage of one recipe with one seed; resumes by itself."),
        ("label", "Label the target's training images by a finished run."),
        ("quality", "Hold such labels against the ground truth, where there is one."),
        ("translate", "Show what a translator makes of some source images."),
        ("evaluate", "Score a finished run."),
        ("report", "Write the tables, figures and page of a study from its run folders."),
        ("track", "Send the finished runs of a study to MLflow."),
    ):
        verb = add(name, text, f"udaseg {name} state/specs/NAME.yaml")
        verb.add_argument("spec", type=Path, help="a spec written by `udaseg plan --write`")

    _predict(
        add(
            "predict",
            "Write label maps and overlays for images of your own.",
            "udaseg predict --run results/a-b/dann/seed=0-0123456789 --output maps/ *.png",
        )
    )
    keep = add("keep", "Put the records of a study and its report where git keeps them.", "udaseg keep --study toytown")
    keep.description = KEEP
    _study(keep)

    knobs = add("knobs", "Print every knob and loss weight of methods with its default.", "udaseg knobs dacs")
    knobs.add_argument("methods", nargs="*", metavar="METHOD", help="default: all")
    knobs.add_argument("--write", action="store_true", help="write those of all methods to workflow/methods.yaml")

    _verify(add("verify", "Hold a rerun against a recorded result.", "udaseg verify --study toytown --tolerance 0"))
    snapshot = add("snapshot", "Make a part of what DVC versions equal to the plan.", "udaseg snapshot runs")
    snapshot.description = SNAPSHOT
    _study(snapshot)
    snapshot.add_argument("part", choices=["plan", "data", "runs", "report"])

    collect = add("gc", "List or remove folders that no study plans.", "udaseg gc --delete")
    collect.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    collect.add_argument("--delete", action="store_true", help="remove them; without it they are only listed")
    return parser


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.description = PLAN
    _study(parser)
    parser.add_argument(
        "--records",
        action="store_true",
        help="as with `--config records=yes`: what need not be made, because reports/reference has its numbers, is "
        "`kept`, and in none of the sums",
    )
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--sweep", metavar="NAME", help="only what this sweep needs, whether the study lists it or not")
    way.add_argument(
        "--write",
        action="store_true",
        help="write the jobs' specs to state/specs/, and print where each one lies in the place of what it takes",
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
    parser.description = VERIFY
    _study(parser)
    parser.add_argument(
        "--recorded",
        type=Path,
        metavar="FOLDER",
        help="laid out as results/ is (another clone's, or snapshot/results); default: reports/reference/STUDY/runs",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="POINTS",
        help="percentage points by which an mIoU may differ; 0: no byte may; default: 1, about the standard deviation "
        "between seeds",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE.json", help="default: reports/certificates/STUDY.json; FILE.md lies beside"
    )


def _study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    parser.add_argument("--study", help="a file of workflow/studies/ without .yaml; default: the one params.yaml names")


if __name__ == "__main__":
    sys.exit(main())
