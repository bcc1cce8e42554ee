"""The kinds of jobs: what describes one, where its result lies, which code decides it and which function makes it.

A new kind is its work, its spec and a line here; then the plan makes such jobs, and a Snakemake rule starts them.
"""

import re
from dataclasses import dataclass
from typing import Literal

from udaseg.runs.folder import MARKER
from udaseg.runs.spec import (
    DownloadSpec,
    EvaluateSpec,
    LabelSpec,
    PrepareSpec,
    QualitySpec,
    ReportSpec,
    Spec,
    TrainSpec,
    TranslateSpec,
)


@dataclass(frozen=True)
class Kind:
    """One kind of job; its spec's docstring is the help of its verb."""

    spec: type[Spec]
    folder: str  # pattern of its folders, below the project's root
    # "module:function", called as function(spec, build) or, on a device, function(spec, build, device); what it leaves
    # in `build` becomes the result. "": its verb puts the result in its place by itself
    work: str = ""
    # Modules below the package whose code decides the result, with fields of the `spec` and its `method`'s module.
    code: tuple[str, ...] = ()
    marker: str = MARKER  # file of the folder that is written last; "": the folder itself, which appears by rename
    on_device: bool = False
    resumes: bool = False  # an interrupted job continues from what it left in `build`
    part: Literal["data", "runs", "report", ""] = ""  # of the snapshot for DVC
    numbers: tuple[str, ...] = ()  # files that a record keeps in git; without any, no job of this kind is recorded
    reported: bool = False  # the report reads its numbers
    is_last: bool = False  # only the report is made from it

    @property
    def regex(self) -> str:
        """`folder` as a regular expression."""
        return re.escape(self.folder).replace(r"\*", "[^/]+")


KINDS = {
    "download": Kind(DownloadSpec, "data/downloads/*", marker=""),
    "prepare": Kind(
        PrepareSpec,
        "data/sets/*",
        work="udaseg.cli.job_commands:prepare",
        code=("data.sets.build", "data.datasets.{spec.dataset[kind]}"),
        marker="set.json",
        part="data",
    ),
    "train": Kind(
        TrainSpec,
        "results/*/*/*",
        work="udaseg.cli.job_commands:train",
        code=("engine.train", "{method}"),
        on_device=True,
        resumes=True,
        part="runs",
        numbers=("result.json", "history.jsonl"),
        reported=True,
    ),
    "label": Kind(
        LabelSpec,
        "results/*/*/*/label-*",
        work="udaseg.offline.label:label",
        code=("offline.label",),
        on_device=True,
        part="runs",
        numbers=("labels.json",),
    ),
    "quality": Kind(
        QualitySpec,
        "results/*/*/*/label-*/quality-*",
        work="udaseg.offline.quality:quality",
        code=("offline.quality",),
        part="runs",
        numbers=("quality.json",),
        reported=True,
        is_last=True,
    ),
    "translate": Kind(
        TranslateSpec,
        "results/*/translation-*",
        work="udaseg.offline.translate:translate",
        code=("offline.translate",),
        on_device=True,
        part="runs",
        is_last=True,
    ),
    "evaluate": Kind(
        EvaluateSpec,
        "results/*/*/*/evaluate-*",
        work="udaseg.engine.evaluate:evaluate",
        code=("engine.evaluate",),
        on_device=True,
        part="runs",
        numbers=("metrics.json", "counts.npz"),
        reported=True,
        is_last=True,
    ),
    "report": Kind(ReportSpec, "reports/*", code=("reports.build", "reports.summary"), part="report"),
}
