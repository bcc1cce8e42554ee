"""Every number of every table, computed a second time from the files in the run folders.

A table or a numeric column that nothing here recomputes fails: who adds one adds its rule to `TABLES`.
Point estimates are of metrics.json, quality.json and cost.json alone; intervals and p-values are drawn anew from
counts.npz. The same is held against every report that git keeps, and its records.
"""

import csv
import itertools
import json
import math
import re
import shutil
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from udaseg.config.claims import Claim
from udaseg.reports.compare import claims as scorecard
from udaseg.reports.compare.comparisons import Comparisons
from udaseg.reports.compare.statistics import Bootstrap
from udaseg.reports.read import published
from udaseg.reports.read.run_folders import read_report
from udaseg.reports.tables import writers
from udaseg.reports.tables.claims import claims_table
from udaseg.reports.tables.contents import all_tables
from udaseg.reports.tables.fidelity import fidelity_table
from udaseg.reports.tables.published import published_tables
from udaseg.reports.tables.sweeps import ablation_tables
from udaseg.reports.tables.table import Table

REFERENCE = Path(__file__).parents[3] / "reports" / "reference"
Rule = Callable[["Study", pd.DataFrame], list[dict[str, float]]]
Row = tuple[str, str | None]  # label, and a stage unless the last one is meant
Members = tuple[str, ...] | None  # classes; None: those of the headline
NONE = math.nan


@dataclass(frozen=True)
class Study:
    """A report's spec, and where the files of its runs lie."""

    spec: dict[str, Any]
    runs: Path  # results, or a study's records

    @cached_property
    def headline(self) -> str:
        return next(iter(self.spec["class_sets"]))

    def place(self, folder: str) -> Path:
        return self.runs / Path(folder).relative_to("results")

    def json(self, folder: str | None, name: str) -> Any:
        """A file of a run, None where it is not there."""
        if folder is None:
            return None
        path = self.place(folder) / name
        if path not in self._read:
            self._read[path] = json.loads(path.read_text()) if path.is_file() else None
        return self._read[path]

    @cached_property
    def _read(self) -> dict[Path, Any]:
        return {}

    def entries(self, row: Row) -> list[dict[str, Any]]:
        """What the spec says of the runs of a row, by seed."""
        label, stage = row
        found = [entry for entry in self.spec["runs"] if entry["recipe"] == label]
        found = [entry for entry in found if (entry["final"] if stage is None else entry["stage"] == stage)]
        return sorted(found, key=lambda entry: entry["seed"])

    def by_seed(self, row: Row, value: Callable[[dict[str, Any]], float | None]) -> dict[int, float]:
        """Seed -> value of the runs that have one."""
        found = {entry["seed"]: value(entry) for entry in self.entries(row)}
        return {seed: number for seed, number in found.items() if number is not None}

    def score(self, entry: dict[str, Any], which: str = "last") -> dict[str, Any]:
        """What metrics.json says of a checkpoint; empty where the run or its evaluation is not there."""
        metrics = self.json(entry["evaluation"], "metrics.json") if self.json(entry["run"], "cost.json") else None
        return (metrics["scores"][which] or {}) if metrics else {}

    def suffix(self, label: str) -> str:
        """What the metrics of a row have in their names."""
        protocols = [self.json(e["evaluation"], "metrics.json") for e in self.spec["runs"] if e["recipe"] == label]
        return "_aggregated" if any(m and m["protocol"]["aggregate"] is not None for m in protocols) else ""

    def labelled(self, label: str) -> int:
        return max((e["labelled_target"] for e in self.spec["runs"] if e["recipe"] == label), default=0)

    def miou(self, row: Row, which: str = "last", class_set: str | None = None) -> dict[int, float]:
        """Seed -> percent."""
        name = (class_set or self.headline) + self.suffix(row[0])
        return self.percent(row, lambda entry: self.score(entry, which).get("sets", {}).get(name))

    def of_classes(self, row: Row, members: Members) -> dict[int, float]:
        """Seed -> percent: the mean IoU of some classes, as far as they are defined."""
        if members is None:
            return self.miou(row)

        def mean(entry: dict[str, Any]) -> float | None:
            ious = self.score(entry).get("iou", {})
            known = [ious[name] for name in members if ious.get(name) is not None]
            return statistics.fmean(known) if known else None

        return self.percent(row, mean)

    def percent(self, row: Row, value: Callable[[dict[str, Any]], float | None]) -> dict[int, float]:
        return {seed: 100 * number for seed, number in self.by_seed(row, value).items()}

    def alike(self, own: Row, other: Row) -> bool:
        return (self.suffix(own[0]), self.labelled(own[0])) == (self.suffix(other[0]), self.labelled(other[0]))

    @cached_property
    def _bootstraps(self) -> dict[int, Bootstrap]:
        return {}

    @cached_property
    def _drawn(self) -> dict[tuple[Row, Members], Any]:
        return {}

    def drawn(self, row: Row, members: Members) -> tuple[Bootstrap, Any] | None:
        """The draws of a row; None where some scored run has no counts."""
        seeds = self.of_classes(row, members)
        folders = {e["seed"]: self.place(e["evaluation"]) for e in self.entries(row) if e["seed"] in seeds}
        if not folders or not all((folder / "counts.npz").is_file() for folder in folders.values()):
            return None
        if (row, members) not in self._drawn:
            counts = {seed: np.load(path / "counts.npz")["counts"].astype(np.int64) for seed, path in folders.items()}
            images = len(next(iter(counts.values())))
            if images not in self._bootstraps:
                self._bootstraps[images] = Bootstrap(images, seed=0)
            bootstrap = self._bootstraps[images]
            indices = [self.spec["classes"].index(name) for name in members or self.spec["class_sets"][self.headline]]
            self._drawn[row, members] = bootstrap, bootstrap.draw(counts, indices)
        found: tuple[Bootstrap, Any] = self._drawn[row, members]
        return found

    def difference(self, own: Row, other: Row, members: Members = None) -> dict[str, float]:
        """Of the means over the seeds that both have, and what the declared test says of it."""
        ours, theirs = self.of_classes(own, members), self.of_classes(other, members)
        seeds = set(ours) & set(theirs) if self.alike(own, other) else set()
        mean = statistics.fmean(ours[seed] - theirs[seed] for seed in seeds) if seeds else NONE
        first, second = self.drawn(own, members), self.drawn(other, members)
        same = all(ours[seed] == theirs[seed] for seed in seeds)  # equal weights: nothing is tested
        drawn = first[0].compare(first[1], second[1]) if first and second and not same else None
        ends = {key: getattr(drawn, key) if drawn else NONE for key in ("low", "high", "p", "detectable")}
        return {"mean": mean, "n": len(seeds)} | ends


def spread(name: str, values: Iterable[float]) -> dict[str, float]:
    """Mean, sample standard deviation and number."""
    present = list(values)
    mean = statistics.fmean(present) if present else NONE
    std = statistics.stdev(present) if len(present) > 1 else NONE
    return {f"{name}_mean": mean, f"{name}_std": std, f"{name}_n": len(present)}


def gap(study: Study, row: Row) -> dict[str, float]:
    """How much of the way from the baseline to the oracle a row goes, in percent."""
    bounds: list[Row] = [(study.spec["baseline"], None), (study.spec["oracle"], None)]
    values = [study.miou(each) for each in (row, *bounds)]
    seeds = set.intersection(*map(set, values)) if all(study.alike(row, bound) for bound in bounds) else set()
    if not seeds:
        return {"gap_closed": NONE, "gap_closed_n": 0}
    own, low, high = (statistics.fmean(each[seed] for seed in seeds) for each in values)
    return {"gap_closed": 100 * (own - low) / (high - low) if high > low else NONE, "gap_closed_n": len(seeds)}


def differences(study: Study, name: str, pairs: list[tuple[Row, Row] | None]) -> list[dict[str, float]]:
    """The columns of one family of comparisons. None: a row that is not compared. A pair is tested once."""
    found = {pair: study.difference(*pair) for pair in pairs if pair is not None}
    corrected = holm({pair: numbers["p"] for pair, numbers in found.items()})
    return [
        {
            f"{name}_{key}": value
            for key, value in (EMPTY | (found[pair] | {"p_holm": corrected[pair]} if pair else {})).items()
        }
        for pair in pairs
    ]


EMPTY = {"mean": NONE, "low": NONE, "high": NONE, "p": NONE, "p_holm": NONE, "detectable": NONE, "n": 0}


def holm(ps: Mapping[Any, float]) -> dict[Any, float]:
    """The smallest p times the number of tests, the next times one fewer, and none below the one before."""
    tested = sorted((p, index) for index, p in enumerate(ps.values()) if not math.isnan(p))
    corrected, highest, names = dict.fromkeys(ps, NONE), 0.0, list(ps)
    for rank, (p, index) in enumerate(tested):
        highest = corrected[names[index]] = max(highest, min(1.0, (len(tested) - rank) * p))
    return corrected


def joined(*columns: list[dict[str, float]]) -> list[dict[str, float]]:
    """Row by row, all columns."""
    return [{key: value for part in parts for key, value in part.items()} for parts in zip(*columns, strict=True)]


def against(
    study: Study,
    table: pd.DataFrame,
    rows: list[Row],
    itself: Callable[[Row, Row], bool] = lambda row, other: row == other,
) -> list[dict[str, float]]:
    """Every column `difference_to_…` of a table of these rows; `itself` tells which are not compared with a label."""
    named = {entry["recipe"]: entry["recipe"] for entry in study.spec["runs"]}
    sweep = sweep_of(study, table)
    named |= {"reference": sweep["reference"]} if sweep and sweep["reference"] else {}
    columns: list[list[dict[str, float]]] = [[{} for _ in rows]]
    for name, label in named.items():
        if f"difference_to_{name}_mean" in table:
            other: Row = (label, None)
            pairs = [None if itself(row, other) else (row, other) for row in rows]
            columns.append(differences(study, f"difference_to_{name}", pairs))
    return joined(*columns)


def sweep_of(study: Study, table: pd.DataFrame) -> dict[str, Any] | None:
    sweeps = study.spec.get("sweeps", [])
    return next((sweep for sweep in sweeps if table.attrs["name"] == f"ablation_{sweep['name']}"), None)


def planned(study: Study, rows: list[Row]) -> list[dict[str, float]]:
    return [{"seeds_planned": len(study.entries(row))} for row in rows]


def main(study: Study, table: pd.DataFrame) -> list[dict[str, float]]:
    rows: list[Row] = [(label, None) for label in table["method"]]
    numbers = []
    for row in rows:
        numbers.append(spread(study.headline, study.miou(row).values()))
        numbers[-1] |= spread(f"{study.headline}_best_on_val", study.miou(row, "best").values())
        for name in list(study.spec["class_sets"])[1:]:
            numbers[-1] |= spread(name, study.miou(row, class_set=name).values())
        accuracy = study.percent(row, lambda entry: study.score(entry).get("pixel_accuracy"))
        numbers[-1] |= spread("pixel_accuracy", accuracy.values()) | gap(study, row)
    return joined(planned(study, rows), numbers, against(study, table, rows))


def stages(study: Study, table: pd.DataFrame) -> list[dict[str, float]]:
    rows: list[Row] = list(zip(table["method"], table["stage"], strict=True))
    numbers = [spread(study.headline, study.miou(row).values()) | gap(study, row) for row in rows]
    steps = [(row, last) if row[0] == last[0] else None for row, last in zip(rows, [("", ""), *rows], strict=False)]
    before = differences(study, "difference_to_stage_before", steps)
    return joined(planned(study, rows), numbers, before, against(study, table, rows))


def semi_supervised(study: Study, table: pd.DataFrame) -> list[dict[str, float]]:
    rows: list[Row] = [(label, None) for label in table["method"]]
    numbers = [spread(study.headline, study.miou(row).values()) for row in rows]
    images = [{"labelled_target": study.labelled(label)} for label, _ in rows]
    return joined(planned(study, rows), images, numbers, against(study, table, rows))


def classes(study: Study, table: pd.DataFrame) -> list[dict[str, float]]:
    rows: list[Row] = [(label, None) for label in table["method"]]
    numbers = []
    for row in rows:
        numbers.append({})
        for name in study.spec["classes"]:
            values = study.percent(row, lambda entry, name=name: study.score(entry).get("iou", {}).get(name))
            numbers[-1] |= spread(name, values.values())
    return joined(planned(study, rows), numbers)


def pseudo_labels(study: Study, table: pd.DataFrame) -> list[dict[str, float]]:
    numbers = []
    for label, stage, name in zip(table["method"], table["stage"], table["class"], strict=True):
        members = study.spec["classes"] if name == "all classes" else [name]
        judged = [study.json(entry["quality"], "quality.json") for entry in study.entries((label, stage))]
        values: dict[str, list[float]] = {"coverage": [], "precision": [], "recall": [], "share": []}
        for content in filter(None, judged):
            pixels = {
                key: sum(content[key][member] for member in members) if content[key] else None
                for key in ("selected", "truth", "judged", "correct")
            }
            for quantity, part, whole in (
                ("coverage", pixels["selected"], content["total"]),
                ("share", pixels["truth"], content["total"]),
                ("precision", pixels["correct"], pixels["judged"]),
                ("recall", pixels["correct"], pixels["truth"]),
            ):
                if part is not None and whole:
                    values[quantity].append(100 * part / whole)
        numbers.append({key: value for name, found in values.items() for key, value in spread(name, found).items()})
    return numbers


def costs(study: Study, label: str, key: str) -> dict[int, list[float]]:
    """Seed -> that of every stage of a row, for seeds all of whose stages are there."""
    found: dict[int, list[Any]] = {}
    for entry in study.spec["runs"]:
        if entry["recipe"] == label:
            found.setdefault(entry["seed"], []).append(study.json(entry["run"], "cost.json"))
    return {seed: [each[key] for each in every] for seed, every in found.items() if all(every)}


def cost(study: Study, table: pd.DataFrame) -> list[dict[str, float]]:
    rows: list[Row] = [(label, None) for label in table["method"]]
    numbers = []
    for label, _ in rows:
        pace = study.by_seed((label, None), lambda entry: (study.json(entry["run"], "cost.json") or {}).get(PACE))
        numbers.append(
            {"stages": len({entry["stage"] for entry in study.spec["runs"] if entry["recipe"] == label})}
            | spread("iterations", map(sum, costs(study, label, "iterations").values()))
            | spread("seconds", map(sum, costs(study, label, "seconds").values()))
            | spread("peak_memory_mib", map(max, costs(study, label, "peak_memory_mib").values()))
            | spread(PACE, pace.values())
        )
    return joined(planned(study, rows), numbers)


PACE = "seconds_per_iteration"


def runs(study: Study, table: pd.DataFrame) -> list[dict[str, float]]:
    numbers = []
    for line in table.to_dict("records"):
        known = [entry for entry in study.spec["runs"] if entry["run"] == line["run"]]
        evaluation = line["evaluation"] if isinstance(line["evaluation"], str) else None
        seed = known[0]["seed"] if known else int(re.findall(r"seed=(\d+)-", line["run"])[0])
        row: dict[str, float] = {"seed": seed, "labelled_target": study.labelled(line["label"])}
        for which in ("last", "best"):
            score = study.score({"run": line["run"], "evaluation": evaluation}, which)
            row |= {f"{which}.iteration": score.get("iteration"), f"{which}.monitor": percent(score.get("monitor"))}
            row[f"{which}.pixel_accuracy"] = percent(score.get("pixel_accuracy"))
            for name in study.spec["class_sets"]:
                row[f"{which}.{name}"] = percent(score.get("sets", {}).get(name + study.suffix(line["label"])))
        spent = study.json(line["run"], "cost.json") or {}
        numbers.append(row | {key: spent.get(key) for key in ("seconds", "iterations", PACE, "peak_memory_mib")})
    return [{key: NONE if value is None else value for key, value in row.items()} for row in numbers]


def percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def ablation(study: Study, table: pd.DataFrame) -> list[dict[str, float]]:
    sweep = sweep_of(study, table)
    assert sweep is not None
    labels = {name: label for label, name in sweep["points"].items()}
    rows: list[Row] = [(labels.get(name, "a point that is skipped"), None) for name in table["point"]]
    # A grid has every combination of its values, in their order.
    grid = [dict(zip(sweep["over"], values, strict=True)) for values in itertools.product(*sweep["over"].values())]
    numbers = []
    for row, values in zip(rows, grid if sweep["over"] else [{}] * len(rows), strict=True):
        numbers.append({key: float(value) for key, value in values.items() if is_number(value)})
        numbers[-1] |= spread(study.headline, study.miou(row).values())
        numbers[-1] |= spread("seconds", map(sum, costs(study, row[0], "seconds").values()))

    def same_runs(row: Row, other: Row) -> bool:
        own, others = ({e["seed"]: (e["run"], e["evaluation"]) for e in study.entries(each)} for each in (row, other))
        return all(own[seed] == others[seed] for seed in own.keys() & others.keys())

    return joined(planned(study, rows), numbers, against(study, table, rows, same_runs))


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def beside_published(study: Study, table: pd.DataFrame) -> list[dict[str, float]]:
    stage_of = [stage if isinstance(stage, str) else None for stage in table["stage"]]
    rows: list[Row] = list(zip(table["row"], stage_of, strict=True))
    numbers = [spread(study.headline, study.miou(row).values()) for row in rows]
    with published.FILE.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    figures = []
    for line in table.to_dict("records"):
        # What the same source says of the same pair of data sets with the same network.
        beside = [
            each
            for each in lines
            if f"published_{slug(each['source'])}_{slug(each['target'])}" == table.attrs["name"]
            and each["backbone"] == line["published_backbone"]
            and str(line["published_where"]).startswith(f"{each['where']}; ")
        ]
        values = {(f"{each['method']}, {each['variant']}", each["metric"]): float(each["value"]) for each in beside}
        name, metric = line["published_name"], line["published_metric"]
        value, under = values.get((name, metric), NONE), values.get((line["published_baseline"], metric), NONE)
        figures.append({"published_value": value, "published_gain": values.get((name, "gain"), value - under)})

    def its_runs(row: Row, other: Row) -> bool:
        return {entry["run"] for entry in study.entries(row)} <= {entry["run"] for entry in study.entries(other)}

    return joined(planned(study, rows), numbers, figures, against(study, table, rows, its_runs))


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def fidelity(study: Study, table: pd.DataFrame) -> list[dict[str, float]]:
    pairs: list[tuple[Row, Row] | None] = [
        ((released, None), (paper, None)) if isinstance(paper, str) else None
        for released, paper in zip(table["released"], table["paper"], strict=True)
    ]
    return differences(study, "effect", pairs)


def claims(study: Study, table: pd.DataFrame) -> list[dict[str, float]]:
    lines = []
    for line in table.to_dict("records"):
        both = [row_of(line["own"]), row_of(line["other"])]
        members = {"headline": None, "rare": rare(study)}.get(line["classes"], tuple(line["classes"].split()))
        lines.append((line["claim"], both, members, math.isnan(line["margin"])))
    # A claim of which a row is not planned, or a class not known, is not judged at all.
    lacking = {
        name
        for name, both, members, _ in lines
        if not all(map(study.entries, both)) or not set(members or []) <= set(study.spec["classes"]) or members == ()
    }
    found = [EMPTY if name in lacking else study.difference(*both, members) for name, both, members, _ in lines]
    ps: dict[str, float] = {}
    for name, _, _, of_pairs in lines:
        own = [numbers for (other, *_), numbers in zip(lines, found, strict=True) if other == name]
        against_it = [each["p"] for each in own if each["mean"] <= 0 and not math.isnan(each["p"])]
        untested = not of_pairs or (not against_it and any(math.isnan(each["p"]) for each in own))
        p = min(1.0, len(own) * min(against_it)) if against_it else max(each["p"] for each in own)
        ps[name] = NONE if untested else p
    corrected = holm(ps)
    return [
        {f"difference_{key}": value for key, value in (numbers | {"p_holm": corrected[name]}).items()}
        | {"claim_p": ps[name]}
        for (name, *_), numbers in zip(lines, found, strict=True)
    ]


def row_of(text: str) -> Row:
    """RECIPE, RECIPE:STAGE or SWEEP/POINT."""
    name, _, stage = (text, "", "") if "/" in text else text.partition(":")
    return name, stage or None


def rare(study: Study) -> tuple[str, ...]:
    """The headline's classes with a share of the labelled pixels that is rare, but with some."""
    scored = next((score for entry in study.spec["runs"] if (score := study.score(entry))), None)
    truth = dict(zip(study.spec["classes"], map(sum, scored["confusion"]), strict=True)) if scored else {}
    names = study.spec["class_sets"][study.headline]
    return tuple(name for name in names if 0 < truth.get(name, 0) < scorecard.RARE * sum(truth.values()))


TABLES: Mapping[str, Rule] = {  # name, as a pattern -> every numeric column of every line
    "main": main,
    "stages": stages,
    "pseudo_labels": pseudo_labels,
    "classes": classes,
    r"semi_supervised_\d+": semi_supervised,
    "cost": cost,
    "runs": runs,
    "ablation_.+": ablation,
    "published_.+": beside_published,
    "fidelity": fidelity,
    "claims": claims,
}
# Columns of words, names and truth values, which may look like numbers.
WORDS = re.compile(
    r"method|metric|stage|rule|class|label|recipe|overrides|status|run|evaluation|device|final|point|skipped|row|"
    r"published_(name|backbone|metric|baseline|where)|"
    r"claim|own|other|classes|verdict|margin|"  # the margin is one that a claim declares
    r"of|field|default|released|paper"
)


def read_table(path: Path) -> pd.DataFrame:
    # The file of a table without numbers, as of a study that has just begun, is empty.
    table = pd.read_csv(path) if path.read_text().strip() else pd.DataFrame()
    table.attrs["name"] = path.stem
    return table


def untraced(study: Study, tables: Path) -> list[str]:
    """What is wrong with the numbers of a report, one line each."""
    found = []
    for path in sorted(tables.glob("*.csv")):
        table = read_table(path)
        rule = next((rule for name, rule in TABLES.items() if re.fullmatch(name, path.stem)), None)
        if rule is None:
            found.append(f"{path.stem}: no rule in TABLES recomputes this table")
            continue
        expected = [] if table.empty else rule(study, table)
        for column in table:
            numbers = pd.to_numeric(table[column], errors="coerce")
            for index, (shown, row) in enumerate(zip(numbers, expected, strict=True)):
                place = f"{path.stem}.{column}, line {index}: {shown}"
                if column in row and not same(shown, row[column]):
                    found.append(f"{place}, but the run folders give {row[column]}")
                if column not in row and not math.isnan(shown) and not WORDS.fullmatch(column):
                    found.append(f"{place}, which nobody recomputes")
        found += [f"{path.stem}.{name}: is not in the table" for name in sorted(set().union(*expected) - set(table))]
    return found


def same(shown: float, expected: float) -> bool:
    """Whether a number of a CSV file, which has six decimals, is the one that is expected; an empty one is NaN."""
    return math.isnan(shown) if math.isnan(expected) else abs(shown - expected) < 1e-6


def in_markdown(study: Study, tables: Path) -> list[str]:
    """Cells of Markdown tables with a number that is not the CSV's at the digits that are shown, one line each."""
    found = []
    for path in sorted(tables.glob("*.csv")):
        header, lines = read_markdown(path.with_suffix(".md"))
        table = read_table(path)
        if table.empty:
            continue
        groups = MARKDOWN.get(path.stem, line_by_line)(table)
        checked = 0
        for index, (cells, shown) in enumerate(zip(lines, groups, strict=True)):
            for name, text in zip(header, cells, strict=True):
                bare = UNITS.sub("", text)
                if re.search(r"[a-zA-Z]", bare):
                    continue  # words
                for part in filter(None, map(NUMBER.findall, bare.split(";"))):
                    checked += 1
                    if not any(holds([number(digits) for digits in part], group) for group in shown):
                        found.append(f"{path.stem}.md, line {index}, {name}: {text} is nowhere in the CSV's line")
        if not checked:
            found.append(f"{path.stem}.md: has no number that can be checked")
    return found


NUMBER = re.compile(r"[<+−-]? ?\d+(?:\.\d+)?")
# Seeds, which are a column of the CSV; metrics; sources, which are in a note.
UNITS = re.compile(r"\(n = \d+( of \d+)?\)|\(mIoU\d+\)|^\[\d+\]$")


def read_markdown(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table in a Markdown file."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ")]
    cells = [[text.strip().strip("*") for text in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [name.replace("\\", "") for name in cells[0]], cells[2:]


def number(text: str) -> tuple[str, float, int]:
    """A number of a cell, with what it begins with where that is <, and its decimals."""
    bare = text.replace("−", "-").replace(" ", "")
    return "<" if "<" in bare else "", float(bare.strip("<")), len(bare.partition(".")[2])


Groups = list[list[float]]  # numbers that may stand together in a cell


def quantities(line: "pd.Series[Any]") -> Groups:
    """What may stand together in a cell: mean and spread, mean and interval, or a number alone."""
    names = [str(name).removesuffix("_mean") for name in line.index if str(name).endswith("_mean")]
    ends = ("mean", "std", "low", "high")
    groups = [[line.get(f"{name}_{end}", NONE) for end in ends] for name in names]
    alone = [[value] for value in pd.to_numeric(line, errors="coerce")]
    return [[value for value in group if not math.isnan(value)] for group in [*groups, *alone]]


def line_by_line(table: pd.DataFrame) -> list[Groups]:
    return [quantities(line) for _, line in table.iterrows()]


def by_quantity(table: pd.DataFrame) -> list[Groups]:
    """A line of the Markdown table for each quantity that is known, with all classes."""
    return [
        [[value] for value in rows[f"{name}_mean"]]
        for _, rows in table.groupby(["method", "stage"], sort=False)
        for name in ("coverage", "precision", "recall")
        if rows[f"{name}_n"].any()
    ]


def by_claim(table: pd.DataFrame) -> list[Groups]:
    """A line of the Markdown table for each claim, with some of its comparisons."""
    return [
        [group for _, line in rows.iterrows() for group in quantities(line)]
        for _, rows in table.groupby("claim", sort=False)
    ]


MARKDOWN = {"pseudo_labels": by_quantity, "claims": by_claim}


def holds(wanted: list[tuple[str, float, int]], group: list[float]) -> bool:
    """Whether the numbers of a cell are these, in their order, at the decimals that they are shown with."""
    return len(wanted) <= len(group) and all(
        value < shown if less else f"{value:.{digits}f}" == f"{shown:.{digits}f}"
        for (less, shown, digits), value in zip(wanted, group, strict=False)
    )


def write_tables(spec: Path, folder: Path, made: Callable[[Comparisons], Iterable[Table]] = all_tables) -> Study:
    """Tables of the report of `spec`, all unless told which, as its verb writes them, in `folder`."""
    folder.mkdir()
    for table in made(Comparisons(read_report(spec))):
        (folder / f"{table.name}.csv").write_text(writers.to_csv(table))
        (folder / f"{table.name}.md").write_text(writers.to_markdown(table))
    return study_of(spec)


def study_of(spec: Path) -> Study:
    return Study(yaml.safe_load(spec.read_text()), Path("results"))


@pytest.mark.parametrize("fixture", ["swept", "staged", "mixed"])
def test_every_number_is_that_of_the_run_folders(fixture: str, request: pytest.FixtureRequest) -> None:
    study, tables = write_tables(request.getfixturevalue(fixture), Path("tables")), Path("tables")
    assert len(list(tables.glob("*.csv"))) >= 5
    assert untraced(study, tables) == [] == in_markdown(study, tables)


FULL, WARM, PLAIN = "parts/full", "parts/warm up only", "parts/no structure learning"
CLAIMS = [
    {"pairs": [{"better": FULL, "than": WARM}]},
    {"pairs": [{"better": FULL, "than": PLAIN}, {"better": PLAIN, "than": WARM}, {"better": WARM, "than": FULL}]},
    {"pairs": [{"better": "proda:stage1", "than": "proda:warmup"}], "classes": "rare"},
    {"pairs": [{"better": "dann", "than": "source_only"}], "classes": ["car", "train", "pole"]},
    {"alike": ["grid/gamma=5.0, domain=0.5", FULL], "to": "dann", "margin": 2.0},
    {"pairs": [{"better": "dann", "than": "source_only"}, {"better": "of another study", "than": "dann"}]},
    {"pairs": [{"better": "dann", "than": "source_only"}], "classes": ["of_another_study"]},
]


@pytest.mark.slow
def test_so_are_those_of_claims_sweeps_and_published_figures(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorecard, "RARE", 0.05)
    shared = {"claim": "Claim", "paper": "Paper", "where": "Table 1"}
    entries = [Claim.model_validate({"name": f"claim{index}"} | shared | entry) for index, entry in enumerate(CLAIMS)]

    def made(comparisons: Comparisons) -> list[Table]:
        table = claims_table(comparisons, entries)
        assert table is not None and rare(study_of(swept))
        return [table, *ablation_tables(comparisons), *published_tables(comparisons)]

    study, tables = write_tables(swept, Path("tables"), made), Path("tables")
    assert len(list(tables.glob("*.csv"))) >= 5
    assert untraced(study, tables) == [] == in_markdown(study, tables)


def test_so_are_those_of_fidelity(swept: Path) -> None:
    spec = yaml.safe_load(swept.read_text())
    for entry in spec["runs"]:
        values = {"patch_size/patch_size=24x24": "paper", "patch_size/patch_size=64x64": "released"}
        if entry["recipe"] in values:
            entry["point"] = {"main.knobs.pixel": values[entry["recipe"]]}
    swept.write_text(yaml.safe_dump(spec, sort_keys=False))

    def made(comparisons: Comparisons) -> list[Table]:
        table = fidelity_table(comparisons)
        assert table is not None and table.numbers["effect_n"].sum() == 3
        return [table]

    study, tables = write_tables(swept, Path("tables"), made), Path("tables")
    assert untraced(study, tables) == [] == in_markdown(study, tables)


@pytest.mark.slow
def test_so_it_is_where_runs_are_missing(swept: Path) -> None:
    entries = yaml.safe_load(swept.read_text())["runs"]
    for recipe, seed, key in (
        *(("dann", 1, "run"), ("oracle", 2, "evaluation"), ("grid/gamma=5.0, domain=0.05", 0, "run")),
        *(("parts/full", 1, "run"), ("patch_size/patch_size=24x24", 2, "evaluation")),
    ):
        gone = next(e for e in reversed(entries) if (e["recipe"], e["seed"]) == (recipe, seed) and e["final"])
        shutil.rmtree(gone[key])
    study, tables = write_tables(swept, Path("tables")), Path("tables")
    assert untraced(study, tables) == [] == in_markdown(study, tables)


@pytest.mark.slow
def test_a_wrong_number_and_what_nobody_recomputes_are_found(swept: Path) -> None:
    study, tables = write_tables(swept, Path("tables")), Path("tables")
    table = pd.read_csv(tables / "main.csv")
    table.loc[1, "mIoU11_mean"] += 0.00001
    table["of_nowhere"] = [1, 2, 3, 4]
    table.to_csv(tables / "main.csv", index=False)
    (tables / "unknown.csv").write_text("method,value\ndann,1\n")
    found = untraced(study, tables)
    assert len(found) == 6 and found[0].startswith("main.mIoU11_mean, line 1: ")
    assert all("which nobody recomputes" in line for line in found[1:5])
    assert found[5] == "unknown: no rule in TABLES recomputes this table"
    (tables / "unknown.csv").unlink()
    path = tables / "main.md"
    shown = f"{table.loc[2, 'mIoU11_mean']:.1f} ± "
    assert shown in path.read_text()
    path.write_text(path.read_text().replace(shown, f"{table.loc[2, 'mIoU11_mean'] + 0.1:.1f} ± "))
    assert [line.partition(": ")[0] for line in in_markdown(study, tables)] == ["main.md, line 2, mIoU11 (last)"]


KEPT = [path.parent for path in sorted(REFERENCE.glob("*/report.yaml")) if (path.parent / "runs").is_dir()]


@pytest.mark.slow
@pytest.mark.skipif(not KEPT, reason="no study below reports/reference has report.yaml and runs yet")
@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name)
def test_every_number_that_git_keeps_is_that_of_its_records(kept: Path) -> None:
    study = Study(yaml.safe_load((kept / "report.yaml").read_text()), kept / "runs")
    assert untraced(study, kept / "tables") == [] == in_markdown(study, kept / "tables")
