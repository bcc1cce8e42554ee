"""A study as its report sees it: every planned run with what its folder holds, the rows they make, and their scores."""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from udaseg.config.claims import Claim
from udaseg.reports.read.rows import Row, Run, Stage, make_row
from udaseg.reports.read.scores import score_frame
from udaseg.runs.spec import FidelityField, ReportSkipped, ReportSweep


@dataclass(frozen=True)
class Report:
    """A report's spec with every run read. What is derived from that is computed once and never changes."""

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
    networks: dict[str, str]  # name -> title, see `ReportSpec`

    @property
    def headline(self) -> str:
        """The class set whose mIoU is the study's result: the first one."""
        return next(iter(self.class_sets))

    @cached_property
    def measured(self) -> bool:
        """Whether any run tells what it cost: beside such a run another one is a dash, else there are no columns."""
        return any(run.cost for run in self.runs)

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Every row by name; baseline and oracle are there even without runs, and so is that of the pretraining."""
        groups: dict[str, list[Run]] = {}
        for run in [*self.runs, *self.pretraining]:
            groups.setdefault(run.row, []).append(run)
        names = dict.fromkeys([*groups, self.baseline, self.oracle])
        return {name: make_row(name, groups.get(name, []), self.headline) for name in names}

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One line a score, as `score_frame` says."""
        return score_frame(self.rows.values(), list(self.class_sets), self.classes)

    def percent(self, stage: Stage, kind: str, name: str, checkpoint: str = "last") -> pd.Series:
        """Seed → one score of a stage in percent, as `kind` and `name` of the frame; NaN where there is none."""
        return pd.Series({run.seed: 100 * self.score(run, kind, name, checkpoint) for run in stage.runs}, dtype=float)

    def score(self, run: Run, kind: str, name: str, checkpoint: str = "last") -> float:
        """One score of a run, a fraction, as `kind` and `name` of the frame; NaN where there is none."""
        return self._by_run.get((run.row, run.stage, run.seed, checkpoint, kind, name), math.nan)

    @cached_property
    def _by_run(self) -> dict[Hashable, float]:
        keys = ["row", "stage", "seed", "checkpoint", "kind", "name"]
        return self.scores.set_index(keys)["score"].to_dict()

    @cached_property
    def main(self) -> list[Row]:
        """The rows of the main table: the study's recipes in their order, without the points of sweeps.

        Only unsupervised adaptation and its bounds: what had labels of single target images is compared with neither.
        """
        return self._recipes(0)

    @cached_property
    def semi_supervised(self) -> dict[int, list[Row]]:
        """The other rows, by how many target images they had labels of, few first."""
        images = {row.labelled_target for row in self.rows.values() if row.sweep is None}
        return {n: self._recipes(n) for n in sorted(images) if n}

    def _recipes(self, labelled_target: int) -> list[Row]:
        rows = [row for row in self.rows.values() if row.final.runs and row.sweep is None]
        rows = [row for row in rows if row.labelled_target == labelled_target]
        return sorted(rows, key=lambda row: self.recipes.index(row.recipe))

    @cached_property
    def bounds(self) -> list[Row]:
        """Baseline and oracle, as far as they are rows of the main table."""
        return [row for row in (self.rows[self.baseline], self.rows[self.oracle]) if row in self.main]

    @cached_property
    def staged(self) -> list[Row]:
        """The rows of the main table with more than one stage that is scored."""
        return [row for row in self.main if len(row.scored_stages) > 1]

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

    def places(self, run: Run) -> list[tuple[Row, str]]:
        """Row and stage of every recipe's use of a run with this evaluation."""
        return self._places[run.folder, run.evaluation]

    @cached_property
    def _places(self) -> dict[tuple[Path, Path | None], list[tuple[Row, str]]]:
        found: dict[tuple[Path, Path | None], dict[tuple[Row, str], None]] = {}
        for use in [*self.pretraining, *self.runs]:
            found.setdefault((use.folder, use.evaluation), {})[self.rows[use.row], use.stage] = None
        return {key: list(places) for key, places in found.items()}
