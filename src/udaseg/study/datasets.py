"""The data sets of a study: validated by their kinds, and with the splits and labels that the study needs."""

from udaseg.config.schema import CamvidData, DatasetSpec, FolderData, ObjectsData, Params, ToytownData
from udaseg.errors import UserError
from udaseg.validation import Model, require_known, validate

KINDS: dict[str, type[Model]] = {
    "toytown": ToytownData,
    "objects": ObjectsData,
    "folder": FolderData,
    "camvid": CamvidData,
}


def resolve_datasets(params: Params) -> dict[str, DatasetSpec]:
    """The data sets by name.

    Raises:
        UserError: a wrong key or value, or a split or labels that the study needs are missing.
        ValueError: a kind is not known.
    """
    found, problems = {}, []
    for name, raw in params.datasets.items():
        path = f"datasets.{name}"
        if "kind" not in raw:
            raise UserError(f"{path}.kind: is required, but not given; known: {', '.join(KINDS)}")
        require_known(f"{path}.kind", raw["kind"], KINDS)
        try:
            found[name] = validate(KINDS[raw["kind"]], raw, path)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    _check_splits(params, found)  # type: ignore[arg-type]
    return found  # type: ignore[return-value]


def _check_splits(params: Params, datasets: dict[str, DatasetSpec]) -> None:
    source, target, pretrain = params.task.source.dataset, params.task.target.dataset, params.pretrain.dataset
    for path, name, split, labelled in (
        ("task.source.dataset", source, "train", True),
        ("task.target.dataset", target, "train", False),
        ("pretrain.dataset", pretrain, "train", True),
        ("evaluate.monitor", target, params.evaluate.monitor, True),
        ("evaluate.report", target, params.evaluate.report, True),
    ):
        dataset = datasets[name]
        if split is not None and split not in dataset.splits():
            raise UserError(f"{path}: data set '{name}' has no split '{split}', only {dataset.splits()}")
        if split is not None and labelled and not dataset.has_labels():
            way_out = "set it to null to do without scores" if "evaluate" in path else "take another"
            raise UserError(
                f"{path}: the split '{split}' of data set '{name}' has no labels (datasets.{name}.labels is null); "
                f"{way_out}, or give the data set its labels"
            )
