"""Opening the prepared sets and pseudo-labels of a run, and checking them before anything is computed."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from udaseg.data.sets.pseudo_labels import PseudoLabels
from udaseg.data.sets.read import PreparedSet
from udaseg.errors import UserError
from udaseg.runs.files import read_json, read_yaml
from udaseg.runs.folder import require_whole
from udaseg.runs.spec import TrainSpec


def open_sets(spec: TrainSpec) -> dict[str, PreparedSet]:
    """The sets of a run's streams, "source" and, where there is one, "target".

    Raises:
        UserError: a set is missing, has other classes than the run, or lacks labels that the run needs.
    """
    sets = {"source": PreparedSet(Path(spec.source))}
    if spec.target is not None:
        sets["target"] = PreparedSet(Path(spec.target))
    for prepared in sets.values():
        require_classes(prepared.folder, prepared.classes, spec.classes)
    if not sets["source"].labelled("train"):
        raise UserError(f"{sets['source'].folder}: the split train has no labels, which {spec.method} learns from")
    if spec.monitor and not sets["target"].labelled(spec.monitor):
        raise UserError(
            f"{sets['target'].folder}: the split {spec.monitor} has no labels, so it cannot be monitored while "
            "training; set evaluate.monitor to null, or to a split with labels"
        )
    return sets


def open_labels(spec: TrainSpec, target: PreparedSet) -> PseudoLabels:
    """The pseudo-labels of a run's target images.

    Raises:
        UserError: the job that makes them is not finished, or labelled other images, or used other classes.
    """
    folder = Path(str(spec.labels))
    require_whole(folder)
    labels = PseudoLabels(folder)
    require_classes(folder, labels.classes, spec.classes)
    require_same(folder, [target], {str(target.folder): labels.data})
    return labels


def require_classes(folder: Path, found: Iterable[str], expected: list[str]) -> None:
    """UserError if the prepared set or the pseudo-labels in `folder` have other classes than the job's spec."""
    if list(found) != expected:
        raise UserError(
            f"{folder}: has the classes {list(found)}, the job's spec {expected}; remove it, so that it is made again"
        )


def require_finished(run: Path, sets: Iterable[PreparedSet]) -> None:
    """UserError unless `run` is finished and saw the present content of those of `sets` that it used."""
    require_whole(run)
    spec, seen = read_yaml(run / "spec.yaml"), read_json(run / "result.json")["data"]
    require_same(run, sets, {spec[stream]: fingerprint for stream, fingerprint in seen.items()})


def fingerprints(sets: Iterable[PreparedSet]) -> dict[str, str]:
    """Folder of each set -> fingerprint of its content."""
    return {str(prepared.folder): prepared.fingerprint for prepared in sets}


def require_same(run: Path, sets: Iterable[PreparedSet], seen: Mapping[str, str]) -> None:
    """UserError if one of `sets` has another fingerprint than `run` saw (`seen`: folder -> fingerprint)."""
    now = fingerprints(sets)
    changed = [folder for folder, found in seen.items() if now.get(str(Path(folder)), found) != found]
    if changed:
        raise UserError(
            f"{run}: saw other content in {', '.join(changed)} than is there now (the fingerprints in set.json "
            "differ). Remove this folder, so that it is made again from the new content, or restore the old files. "
            "When the files of a folder data set change, raise its `version`"
        )
