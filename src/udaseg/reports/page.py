"""The report as one HTML page that loads nothing: style and pictures are inside it."""

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from udaseg.reports.cells import Table
from udaseg.reports.protocols import protocol_notes
from udaseg.reports.semi_supervised import PREFIX
from udaseg.reports.study import Report, Run
from udaseg.runs import read_json

PRETRAINED = (
    "Some networks started from weights that were pretrained within this project ({runs}). On toytown, these "
    "pretrained weights of the small network play the part of ImageNet weights."
)


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
    """The page's HTML."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["aside"] = aside
    by_name = {table.name: table for table in tables}
    runs = report.each_once()
    finals = [run for run in runs if run.final]
    return environment.get_template("page.html.j2").render(
        report=report,
        tables=by_name,
        semi_supervised=[table for table in tables if table.name.startswith(PREFIX)],
        pictures=pictures,
        summary=summary(report),
        protocol=protocol_notes(report),
        pretrained=pretrained_note(report),
        finished=sum(run.status == "finished" for run in finals),
        planned=len(finals),
        data=[data_facts(role, folder) for role, folder in report.data.items()],
        runs=[run_facts(report, run) for run in runs],
    )


def summary(report: Report) -> list[tuple[str, str]]:
    """The facts at the head of the page: what, and its value."""
    finals = [run for run in report.each_once() if run.final]
    seeds = sorted({run.seed for run in finals})
    return [
        ("Task", " → ".join(data_name(folder) for folder in report.data.values())),
        ("Runs finished", f"{sum(run.status == 'finished' for run in finals)} of {len(finals)}"),
        ("Seeds", ", ".join(map(str, seeds))),
        ("Headline", f"{report.headline}: mean IoU of {len(report.class_sets[report.headline])} classes"),
    ]


def pretrained_note(report: Report) -> str | None:
    """The sentence on what stands in for ImageNet weights; None where no network started from a pretraining run."""
    if not report.pretraining:
        return None
    return PRETRAINED.format(runs=", ".join(str(run.folder) for run in report.pretraining))


def data_name(folder: Path) -> str:
    """The name of a prepared set, or its folder while it is not prepared."""
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
    """Classes of the study of which the labels of a prepared set's train split have no pixel, if it has labels."""
    train = read_json(folder / "statistics.json")["splits"]["train"]
    return [name for name, count in train["totals"].items() if not count] if train["pixels"] else []


def run_facts(report: Report, run: Run) -> dict[str, Any]:
    """What it takes to make a run again and to tell whether it is the same: commands, versions, fingerprints."""
    places = report.places(run)
    environment = {key: plain(value) for key, value in run.env.items() if key != "versions"}
    data = {f"Data, {role}": f"{run.spec.get(role, '')} {digest}" for role, digest in run.data.items()}
    return {
        "title": " / ".join(dict.fromkeys(report.scored_title(label) for label, _ in places)),
        "stage": " / ".join(dict.fromkeys(stage for _, stage in places)),
        "seed": run.seed,
        "status": "finished" if run.trained and run.evaluation is None else run.status,
        "folder": str(run.folder),
        "commands": commands(run),
        "init": run.spec.get("init", {}),
        "labels": run.spec.get("labels") or "–",
        "versions": run.env.get("versions", {}),
        "environment": environment,
        "data": data,
        "weights": run.files.get("model.safetensors", "–"),
    }


def commands(run: Run) -> list[str]:
    """The command lines that make the run, its pseudo-labels and its scores, each from the spec in its folder."""
    labels = run.spec.get("labels")
    jobs = {"label": labels, "quality": run.judged, "train": run.folder, "evaluate": run.evaluation}
    return [f"udaseg {verb} {folder}/spec.yaml" for verb, folder in jobs.items() if folder]


def aside(value: str) -> list[str]:
    """A table's cell, and what stands smaller below it: an interval, and the number of seeds where some are missing."""
    return re.split(r" (?=\[|\(n = )", value)


def plain(value: Any) -> str:
    """A value of env.json as text."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
