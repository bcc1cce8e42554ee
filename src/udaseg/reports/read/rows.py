"""The planned runs of a study, and the rows and stages of a report that they make."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from udaseg.runs import counts
from udaseg.runs.files import read_lines

Status = Literal["finished", "not evaluated", "unfinished", "missing"]


@dataclass(frozen=True)
class Run:
    """One planned run: what the report's spec says of it, and the contents of its folders as far as they are there."""

    recipe: str
    title: str  # the recipe's name for readers
    overrides: str  # what differs from the method's defaults
    row: str  # the row it is part of: the recipe, with the overrides in brackets where a recipe has several of them
    stage: str
    final: bool
    seed: int
    folder: Path
    evaluation: Path | None  # None: this stage is not evaluated
    judged: Path | None  # folder of the quality of the pseudo-labels it was trained on; None: it had none
    labelled_target: int  # target images with labels, in the stage of the row that had most; 0: unsupervised
    status: Status
    id: str  # the run's, and "+" its evaluation's hashed name where it has one; "" unless trained
    spec: dict[str, Any]
    evaluation_spec: dict[str, Any]
    cost: dict[str, Any]
    env: dict[str, Any]
    data: dict[str, str]  # role -> content fingerprint of the prepared set that the run used
    metrics: dict[str, Any]
    quality: dict[str, Any]  # of the pseudo-labels; empty while they are not judged
    files: dict[str, str]  # file name -> SHA-256, of the run's folder
    sweep: str | None  # the sweep it belongs to; None: the study's own list of recipes
    base: str  # the recipe, or the one that the sweep's point modifies
    point: dict[str, Any]  # of the sweep: parameter -> value
    place: Path  # where the run's files are read: its folder, or the record of it
    evaluated_at: Path | None  # the same for the evaluation; None: there is none

    @property
    def trained(self) -> bool:
        """Whether there is a finished training run, evaluated or not."""
        return self.status in ("finished", "not evaluated")

    @property
    def aggregated(self) -> bool:
        """Whether its predictions were aggregated before they were scored, which makes another metric of each score."""
        return self.metrics.get("protocol", {}).get("aggregate") is not None

    def history(self) -> list[dict[str, Any]]:
        """The lines of history.jsonl; none for a run that is not whole."""
        path = self.place / "history.jsonl"
        return read_lines(path) if self.trained and path.is_file() else []

    def counts(self) -> np.ndarray | None:
        """Hits, truth and predicted pixels of each image and class (N, C, 3) int64 by the last weights.

        None where the run is not evaluated, or was by code that kept none. Raises UserError for a damaged file.
        """
        if self.evaluated_at is None or not (self.evaluated_at / counts.FILE).is_file():
            return None
        return counts.read_counts(
            self.evaluated_at / counts.FILE, np.array(self.metrics["scores"]["last"]["confusion"])
        )


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage of a row."""

    row: str
    name: str
    runs: tuple[Run, ...]  # the planned ones, by seed
    measured: tuple[bool, int]  # whether scores are of aggregated predictions, and the target images with labels

    @property
    def planned(self) -> int:
        """How many seeds it is planned for."""
        return len(self.runs)


@dataclass(frozen=True, eq=False)
class Row:
    """A row of the report's tables: a recipe, a recipe with its overrides, or a point of a sweep."""

    name: str
    recipe: str
    title: str  # for readers, with the number of labelled target images where there are such
    scored_title: str  # the same beside scores: it also names the metric where that is not the headline's
    headline: str  # metric of the headline's score
    sweep: str | None
    labelled_target: int
    aggregated: bool
    stages: dict[str, Stage]  # by name, in order
    final: Stage

    def metric(self, class_set: str) -> str:
        """The name that the score of a class set has in metrics.json."""
        return f"{class_set}_aggregated" if self.aggregated else class_set

    @property
    def scored_stages(self) -> list[Stage]:
        """The evaluated stages in order (a translator is not evaluated); all stages if the study evaluates nothing."""
        stages = list(self.stages.values())
        return [stage for stage in stages if any(run.evaluation for run in stage.runs)] or stages

    def costs(self, name: str) -> dict[int, list[float]]:
        """Seed -> a number of cost.json for each stage; only the seeds of which every stage tells it."""
        by_seed: dict[int, list[Any]] = {}
        for stage in self.stages.values():
            for run in stage.runs:
                by_seed.setdefault(run.seed, []).append(run.cost.get(name))
        return {seed: values for seed, values in by_seed.items() if None not in values}


@dataclass(frozen=True)
class Place:
    """A row, or one of its stages by name, that something outside the study speaks of: a claim, a published figure."""

    row: Row
    named: str | None  # None: the final stage

    @property
    def stage(self) -> Stage:
        """The named stage, or the final one."""
        return self.row.final if self.named is None else self.row.stages[self.named]


def split_place(text: str) -> tuple[str, str | None]:
    """What RECIPE, RECIPE:STAGE or SWEEP/POINT names: a recipe or a point, and a stage where one is named."""
    name, _, stage = (text, "", "") if "/" in text else text.partition(":")
    return name, stage or None


def make_row(name: str, runs: Sequence[Run], headline: str) -> Row:
    """The row `name` of these planned runs, which may be none; `headline` is the study's first class set."""
    aggregated = any(run.aggregated for run in runs)
    labelled = runs[0].labelled_target if runs else 0
    metric = f"{headline}_aggregated" if aggregated else headline
    title = name.replace(runs[0].recipe, runs[0].title, 1) if runs else name
    title += f" (N = {labelled})" if labelled else ""

    def stage_of(stage: str, own: Iterable[Run]) -> Stage:
        return Stage(name, stage, tuple(sorted(own, key=lambda run: run.seed)), (aggregated, labelled))

    stages = {
        stage: stage_of(stage, [run for run in runs if run.stage == stage])
        for stage in dict.fromkeys(run.stage for run in runs)
    }
    finals = [run for run in runs if run.final]
    final = stages[finals[0].stage] if finals else stage_of("", [])
    return Row(
        name=name,
        recipe=runs[0].recipe if runs else "",
        title=title,
        scored_title=title if metric == headline else f"{title}, {metric}",
        headline=metric,
        sweep=runs[0].sweep if runs else None,
        labelled_target=labelled,
        aggregated=aggregated,
        stages=stages,
        final=final,
    )


def number(value: Any) -> float:
    """A number of a JSON file; NaN for null and for what is not there."""
    return math.nan if value is None else float(value)
