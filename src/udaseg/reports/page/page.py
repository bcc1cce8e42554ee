"""The report as one self-contained HTML page: styles and pictures are embedded."""

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from udaseg.reports.figures.qualitative import class_colours
from udaseg.reports.page.pictures import compared_images
from udaseg.reports.page.sections import VERDICTS, grid, repeated_notes, sections
from udaseg.reports.read.protocols import protocol_notes
from udaseg.reports.read.report import Report
from udaseg.reports.read.rows import Run
from udaseg.reports.tables.table import DASH, NAMED, Table, listed
from udaseg.runs.files import read_json

PRETRAINED = (
    "Some networks started from weights that were pretrained within this project ({runs}). On toytown, these "
    "pretrained weights of the small network play the part of ImageNet weights."
)

DESCRIBED = {  # what a figure shows, for those who do not see it
    "miou": "Headline mIoU of every method and seed",
    "stages": "Headline mIoU by stage of every recipe of several stages",
    "pseudo_labels": "Coverage, precision and recall of the pseudo-labels of every stage and class",
    "classes": "IoU per class of every method against baseline and oracle",
    "qualitative": "Image, ground truth and predictions of every method",
    "translations": "Source images, what each translator makes of them, and target images",
    "monitor": "Monitored mIoU during training",
    "losses": "Loss terms during training",
    "diagnostics": "Diagnostics of the methods during training",
    "cost": "Headline mIoU of every method against its hours of training",
}


@dataclass(frozen=True)
class Picture:
    """A figure inside the page."""

    name: str
    caption: str
    media: str  # MIME type
    content: bytes

    @property
    def uri(self) -> str:
        """The picture itself as a data URI."""
        return f"data:{self.media};base64,{base64.b64encode(self.content).decode()}"


def render(report: Report, tables: list[Table], pictures: dict[str, Picture]) -> str:
    """The page's HTML. It can be read without its script, which sorts, filters and compares."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["grid"] = grid
    script = (folder / "page.js").read_text(encoding="utf-8")
    runs = report.each_once()
    finals = [run for run in runs if run.final]
    shared = shared_facts(runs)
    compared = compared_images(report)
    parts = sections(report, tables, [*(["comparison"] if compared else []), *pictures])
    return environment.get_template("page.html.j2").render(
        report=report,
        sections=parts,
        pictures=pictures,
        described=DESCRIBED,
        repeated=repeated_notes([table for part in parts for block in part.blocks for table in block.tables]),
        signs=VERDICTS,
        compared=compared,
        legend=class_colours(report.classes),
        style=(folder / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        summary=summary(report),
        protocol=protocol_notes(report),
        pretrained=pretrained_note(report),
        finished=sum(run.status == "finished" for run in finals),
        planned=len(finals),
        data=[data_facts(role, folder) for role, folder in report.data.items()],
        shared=shared,
        runs=[run_facts(report, run, shared) for run in runs],
    )


def summary(report: Report) -> list[tuple[str, str]]:
    """The facts at the head of the page, name and value."""
    finals = [run for run in report.each_once() if run.final]
    seeds = sorted({run.seed for run in finals})
    return [
        ("Task", " → ".join(data_name(folder) for folder in report.data.values())),
        ("Runs finished", f"{sum(run.status == 'finished' for run in finals)} of {len(finals)}"),
        ("Seeds", ", ".join(map(str, seeds))),
        ("Headline", f"{report.headline}: mean IoU of {len(report.class_sets[report.headline])} classes"),
    ]


def pretrained_note(report: Report) -> str | None:
    """The sentence on what replaces ImageNet weights; None where no network started from a pretraining run."""
    if not report.pretraining:
        return None
    return PRETRAINED.format(runs=", ".join(str(run.folder) for run in report.pretraining))


def data_name(folder: Path) -> str:
    """The name of a prepared set, or its folder if it is not prepared yet."""
    path = folder / "set.json"
    return str(read_json(path)["name"]) if path.is_file() else str(folder)


def data_facts(role: str, folder: Path) -> dict[str, str]:
    """Role, name, size of splits, fingerprint and class differences of a prepared set."""
    path = folder / "set.json"
    facts = {"role": role, "folder": str(folder)}
    if not path.is_file():
        names = ("splits", "size", "fingerprint", "only_here", "absent")
        return facts | {"name": "not prepared"} | dict.fromkeys(names, "–")
    content = read_json(path)
    return facts | {
        "name": str(content["name"]),
        "splits": ", ".join(f"{split} {len(items)}" for split, items in content["splits"].items()),
        "size": " × ".join(map(str, content["size"])),
        "fingerprint": str(content["fingerprint"]),
        "only_here": ", ".join(content["only_here"]) or "–",
        "absent": ", ".join(absent_classes(folder)) or "–",
    }


def absent_classes(folder: Path) -> list[str]:
    """Classes of the study without a pixel in the labels of a prepared set's train split, if it has labels."""
    train = read_json(folder / "statistics.json")["splits"]["train"]
    return [name for name, count in train["totals"].items() if not count] if train["pixels"] else []


def shared_facts(runs: list[Run]) -> dict[str, str]:
    """Versions and environment that all trained runs have in common, which the page states once."""
    known = [machine_facts(run) for run in runs if run.env]
    first = known[0] if known else {}
    return {name: value for name, value in first.items() if all(facts.get(name) == value for facts in known)}


def machine_facts(run: Run) -> dict[str, str]:
    """Versions and environment of a run, as text."""
    versions = {f"Version of {name}": value for name, value in run.env.get("versions", {}).items()}
    return versions | {name: plain(value) for name, value in run.env.items() if name != "versions"}


def run_facts(report: Report, run: Run, shared: dict[str, str]) -> dict[str, Any]:
    """What is needed to repeat a run and to check the result: commands, versions, fingerprints."""
    places = report.places(run)
    titles = list(dict.fromkeys(row.scored_title for row, _ in places))
    facts = {"Part of": " / ".join(titles)} if len(titles) > NAMED else {}
    facts |= {
        "Folder": str(run.folder),
        "Started from": ", ".join(": ".join(start) for start in run.spec.get("init", {}).items()) or DASH,
        "Pseudo-labels": run.spec.get("labels") or DASH,
        "Weights, SHA-256": run.files.get("model.safetensors", DASH),
    }
    facts |= {f"Data, {role}": f"{run.spec.get(role, '')} {digest}" for role, digest in run.data.items()}
    return {
        "title": listed(titles),
        "stage": listed(stage for _, stage in places),
        "seed": run.seed,
        "status": "finished" if run.trained and run.evaluation is None else run.status,
        "commands": commands(run),
        "facts": facts | {name: value for name, value in machine_facts(run).items() if name not in shared},
    }


def commands(run: Run) -> list[str]:
    """The command lines of the run, its pseudo-labels and its evaluation, each from the spec in its folder."""
    labels = run.spec.get("labels")
    jobs = {"label": labels, "quality": run.judged, "train": run.folder, "evaluate": run.evaluation}
    return [f"udaseg {verb} {folder}/spec.yaml" for verb, folder in jobs.items() if folder]


def plain(value: Any) -> str:
    """A value of env.json as text."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
