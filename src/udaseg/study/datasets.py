"""The data sets of a study: validated by their kinds, and with the splits and labels that the study needs."""

from collections.abc import Mapping
from typing import Any

from udaseg.config.schema import Params
from udaseg.data.datasets import DATASETS
from udaseg.data.datasets.base import DatasetParams
from udaseg.errors import UserError
from udaseg.validation import suggestion, validate


def resolve_dataset(given: Mapping[str, Any], path: str) -> DatasetParams:
    """The parameters of one data set as its kind's model; `path` names the entry in messages.

    Raises:
        UserError: no or an unknown kind, an unknown key, or a wrong value.
    """
    kind, known = given.get("kind"), list(DATASETS)
    if kind is None:
        raise UserError(f"{path}.kind: is required, but not given; known: {', '.join(known)}")
    if kind not in known:
        raise UserError(f"{path}.kind: '{kind}' is not known; {suggestion(str(kind), known)}")
    return validate(DATASETS[kind], given, path)


def resolve_datasets(params: Params) -> dict[str, DatasetParams]:
    """All data sets of the parameters by name, with the splits and labels that the study needs.

    Raises:
        UserError: one message with every wrong key, or else the first split or label that is needed and missing.
    """
    found, problems = {}, []
    for name, given in params.datasets.items():
        try:
            found[name] = resolve_dataset(given, f"datasets.{name}")
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    source, target, pretrain = params.task.source.dataset, params.task.target.dataset, params.pretrain.dataset
    for path, name, split, labelled in (
        ("task.source.dataset", source, "train", True),
        ("task.target.dataset", target, "train", False),
        ("pretrain.dataset", pretrain, "train", True),
        ("evaluate.monitor", target, params.evaluate.monitor, True),
        ("evaluate.report", target, params.evaluate.report, True),
    ):
        if split is not None and split not in found[name].splits():
            raise UserError(f"{path}: data set '{name}' has no split '{split}', only {found[name].splits()}")
        if split is not None and labelled and not found[name].has_labels():
            way_out = "set it to null to do without scores" if "evaluate" in path else "take another data set"
            raise UserError(
                f"{path}: the split '{split}' of data set '{name}' has no labels (datasets.{name}.labels is null); "
                f"{way_out}, or give the data set its labels"
            )
    return found
