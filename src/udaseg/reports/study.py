"""A study as its report sees it: every planned run with what its folder holds, and how runs make rows and stages."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from udaseg.config.claims import Claim
from udaseg.reports.statistics import Bootstrap, Row
from udaseg.runs import counts
from udaseg.runs.files import read_lines
from udaseg.runs.spec import FidelityField, ReportSkipped, ReportSweep

Status = Literal["finished", "not evaluated", "unfinished", "missing"]


@dataclass(frozen=True)
class Run:
    """One planned run: what the report's spec says of it, and the contents of its folders as far as they are there."""

    recipe: str
    title: str  # the recipe's name for readers
    overrides: str  # what differs from the method's defaults
    label: str  # the row of a table: the recipe, with the overrides in brackets where a recipe has several of them
    stage: str
    final: bool
    seed: int
    folder: Path
    evaluation: Path | None  # None: this stage is not evaluated
    judged: Path | None  # folder of the quality of the pseudo-labels it was trained on; None: it had none
    labelled_target: int  # target images that the recipe had labels of, in the stage that had most; 0: unsupervised
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
    sweep: str | None  # that this is a run of; None: of the study's own list of recipes
    base: str  # the recipe, or the one that the point of the sweep is laid upon
    point: dict[str, Any]  # of the sweep: parameter -> value
    place: Path  # where the files of the run are read: its folder, or the record of it
    evaluated_at: Path | None  # the same of the evaluation

    @property
    def recorded(self) -> bool:
        """Whether there is only the record of it, without weights and pictures."""
        return self.place != self.folder

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
        if not self.metrics or self.evaluated_at is None or not (self.evaluated_at / counts.FILE).is_file():
            return None
        return counts.read_counts(
            self.evaluated_at / counts.FILE, np.array(self.metrics["scores"]["last"]["confusion"])
        )


@dataclass(frozen=True)
class Report:
    """A report's spec with every run read."""

    study: str
    classes: list[str]
    class_sets: dict[str, list[str]]
    baseline: str
    oracle: str
    recipes: list[str]
    data: dict[str, Path]  # role -> prepared set
    translations: list[tuple[str, Path]]  # translator and the folder of its pictures
    output: Path
    runs: list[Run]  # one for each recipe, stage and seed: a run that several recipes share stands here for each
    pretraining: list[Run]  # runs that no recipe names, but whose weights some run started from
    sweeps: list[ReportSweep]
    skipped: list[ReportSkipped]  # points of sweeps whose values do not go together
    claims: list[Claim]
    fidelity: list[FidelityField]  # empty in records from before reports were told of them

    @property
    def headline(self) -> str:
        """The class set whose mIoU is the study's result: the first one."""
        return next(iter(self.class_sets))

    @cached_property
    def measured(self) -> bool:
        """Whether any run tells what it cost: beside such a run another one is a dash, else there are no columns."""
        return any(run.cost for run in self.runs)

    def each_once(self) -> list[Run]:
        """Every run folder once with each of its evaluations, pretraining first.

        A shared one is shown as the final stage of a recipe where it is one, as an unsupervised recipe's where it is
        that, and as one of the study's own recipes where it is that.
        """
        return self._once(lambda run: (run.folder, run.evaluation))

    def trainings(self) -> list[Run]:
        """As `each_once`, but a run that is evaluated in several ways is there once, too."""
        return self._once(lambda run: run.folder)

    def _once(self, key: Callable[[Run], Any]) -> list[Run]:
        def rank(run: Run) -> tuple[bool, bool, bool]:
            return run.sweep is None, not run.labelled_target, run.final

        kept: dict[Any, Run] = {}
        for run in [*self.pretraining, *self.runs]:
            other = kept.setdefault(key(run), run)
            if rank(run) > rank(other):
                kept[key(run)] = run
        return list(kept.values())

    def labels(self) -> list[str]:
        """The rows of the main table: the study's recipes in their order, without the points of sweeps.

        Only unsupervised adaptation and its bounds: what had labels of single target images is compared with neither.
        """
        return self._rows(0)

    def sweep_labels(self, name: str) -> list[str]:
        """The rows of a sweep, SWEEP/POINT, in the order of its points."""
        return list(next(sweep for sweep in self.sweeps if sweep.name == name).points)

    def point_name(self, label: str) -> str:
        """The name of a point within its sweep."""
        return next(sweep.points[label] for sweep in self.sweeps if label in sweep.points)

    def bounds(self) -> list[str]:
        """Baseline and oracle, as far as they are rows of the main table."""
        return [label for label in (self.baseline, self.oracle) if label in self.labels()]

    def semi_supervised(self) -> dict[int, list[str]]:
        """The other rows, by how many target images they had labels of, few first."""
        counts = {run.labelled_target for run in self.runs if run.sweep is None}
        return {n: self._rows(n) for n in sorted(counts) if n}

    def _rows(self, labelled_target: int) -> list[str]:
        finals = [
            run for run in self.runs if run.final and run.sweep is None and run.labelled_target == labelled_target
        ]
        return list(dict.fromkeys(run.label for run in sorted(finals, key=lambda run: self.recipes.index(run.recipe))))

    def final_runs(self, label: str) -> list[Run]:
        """The planned final-stage runs of one row, by seed."""
        return sorted((run for run in self.runs if run.final and run.label == label), key=lambda run: run.seed)

    def stages(self, label: str) -> list[str]:
        """The stages of one row, in order."""
        return list(dict.fromkeys(run.stage for run in self.runs if run.label == label))

    def stage_runs(self, label: str, stage: str) -> list[Run]:
        """The planned runs of one stage of a row, by seed."""
        runs = (run for run in self.runs if run.label == label and run.stage == stage)
        return sorted(runs, key=lambda run: run.seed)

    def title(self, label: str) -> str:
        """A row's name for readers, marked with the number of labelled target images where there are such."""
        run = next((run for run in [*self.runs, *self.pretraining] if run.label == label), None)
        if run is None:
            return label
        name = label.replace(run.recipe, run.title, 1)
        return f"{name} (N = {run.labelled_target})" if run.labelled_target else name

    def scored_title(self, label: str) -> str:
        """A row's name beside scores: it says so where they are of aggregated predictions."""
        metric = self.metric(label, self.headline)
        return self.title(label) if metric == self.headline else f"{self.title(label)}, {metric}"

    def metric(self, label: str, class_set: str) -> str:
        """The name that the score of a class set has in metrics.json, which a row's protocol decides."""
        return f"{class_set}_aggregated" if label in self._aggregated else class_set

    @cached_property
    def _aggregated(self) -> set[str]:
        return {run.label for run in self.runs if run.aggregated}

    @cached_property
    def bootstrap(self) -> Bootstrap | None:
        """The draws of images that all comparisons share; None where no run tells of its images one by one."""
        found = next((counts for run in self.runs if (counts := run.counts()) is not None and len(counts) > 1), None)
        return None if found is None else Bootstrap(len(found), seed=0)

    @cached_property
    def drawn(self) -> dict[Hashable, Row | None]:
        """What the draws made of rows so far; `compare.row` fills it."""
        return {}

    def places(self, run: Run) -> list[tuple[str, str]]:
        """(label, stage) of every recipe's use of a run with this evaluation."""
        uses = [use for use in [*self.pretraining, *self.runs] if use.folder == run.folder]
        return list(dict.fromkeys((use.label, use.stage) for use in uses if use.evaluation == run.evaluation))
