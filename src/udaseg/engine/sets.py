"""The prepared sets of a run, checked before anything is computed from them."""

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
        UserError: a set is not there, has other classes than the run, or lacks labels that the run looks at.
    """
    sets = {"source": PreparedSet(Path(spec.source))}
    if spec.target is not None:
        sets["target"] = PreparedSet(Path(spec.target))
    for prepared in sets.values():
        if list(prepared.classes) != spec.classes:
            raise UserError(
                f"{prepared.folder}: has the classes {list(prepared.classes)}, the run's spec {spec.classes}"
            )
    if not sets["source"].labelled("train"):
        raise UserError(f"{sets['source'].folder}: the split train has no labels, which {spec.method} learns from")
    if spec.monitor and not sets["target"].labelled(spec.monitor):
        raise UserError(
            f"{sets['target'].folder}: the split {spec.monitor} has no labels, so it cannot be looked at while "
            "training; set evaluate.monitor to null, or to a split with labels"
        )
    return sets


def open_labels(spec: TrainSpec, target: PreparedSet) -> PseudoLabels:
    """The pseudo-labels of a run's target images.

    Raises:
        UserError: the job that makes them has not finished, or it labelled other images, or with other classes.
    """
    folder = Path(str(spec.labels))
    require_whole(folder)
    labels = PseudoLabels(folder)
    if labels.classes != spec.classes:
        raise UserError(f"{folder}: labelled with the classes {labels.classes}, the run's spec has {spec.classes}")
    require_same(folder, [target], {str(target.folder): labels.data})
    return labels


def require_finished(run: Path, sets: Iterable[PreparedSet]) -> None:
    """UserError unless `run` is a finished run that saw the content that those of `sets` which it used have now."""
    require_whole(run)
    spec, seen = read_yaml(run / "spec.yaml"), read_json(run / "result.json")["data"]
    require_same(run, sets, {spec[stream]: fingerprint for stream, fingerprint in seen.items()})


def fingerprints(sets: Iterable[PreparedSet]) -> dict[str, str]:
    """Folder -> fingerprint of its content."""
    return {str(prepared.folder): prepared.fingerprint for prepared in sets}


def require_same(run: Path, sets: Iterable[PreparedSet], seen: Mapping[str, str]) -> None:
    """UserError when one of `sets` has another fingerprint than `run` has seen (folder -> fingerprint)."""
    now = fingerprints(sets)
    changed = [folder for folder, found in seen.items() if now.get(str(Path(folder)), found) != found]
    if changed:
        raise UserError(
            f"{run}: saw another content of {', '.join(changed)} than lies there now (the fingerprints in set.json "
            "differ). Remove this folder to have it made again from the new content, or bring back the old files; "
            "when the files of a folder data set change, raise its `version`"
        )
