"""A study as its report sees it: every planned run with what its folder holds, and how runs make rows and stages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from udaseg.runs import read_lines

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

    @property
    def trained(self) -> bool:
        """Whether there is a finished training run, evaluated or not."""
        return self.status in ("finished", "not evaluated")

    def history(self) -> list[dict[str, Any]]:
        """The lines of history.jsonl; none for a run that is not whole."""
        path = self.folder / "history.jsonl"
        return read_lines(path) if self.trained and path.is_file() else []


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
    output: Path
    runs: list[Run]  # one for each recipe, stage and seed: a run that several recipes share stands here for each
    pretraining: list[Run]  # runs that no recipe names, but whose weights some run started from

    @property
    def headline(self) -> str:
        """The class set whose mIoU is the study's result: the first one."""
        return next(iter(self.class_sets))

    def each_once(self) -> list[Run]:
        """Every run folder once, pretraining first; a shared one as the final stage of a recipe where it is one."""
        kept: dict[Path, Run] = {}
        for run in [*self.pretraining, *self.runs]:
            if run.folder not in kept or (run.final and not kept[run.folder].final):
                kept[run.folder] = run
        return list(kept.values())

    def labels(self) -> list[str]:
        """The rows of the main table: recipe and point of a sweep, recipes in the study's order."""
        finals = sorted((run for run in self.runs if run.final), key=lambda run: self.recipes.index(run.recipe))
        return list(dict.fromkeys(run.label for run in finals))

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
        """A row's name for readers."""
        run = next((run for run in [*self.runs, *self.pretraining] if run.label == label), None)
        return label if run is None else label.replace(run.recipe, run.title, 1)

    def places(self, run: Run) -> list[tuple[str, str]]:
        """(label, stage) of every recipe's use of a run's folder."""
        uses = [use for use in [*self.pretraining, *self.runs] if use.folder == run.folder]
        return list(dict.fromkeys((use.label, use.stage) for use in uses))
