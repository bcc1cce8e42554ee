"""The only reader of parameters: params.yaml, the files beside it in workflow/, and a study's overlay on them."""

import re
from pathlib import Path
from typing import Any

from udaseg.config.schema import Params
from udaseg.errors import UserError
from udaseg.runs.files import read_yaml
from udaseg.study.claims import load_claims
from udaseg.study.overlay import overlay, with_bases
from udaseg.study.resolve import resolve_study
from udaseg.study.rows import Study
from udaseg.types import NAME
from udaseg.validation import require_known, suggestion, validate

# Files of workflow/ that are laid upon each other in this order, below params.yaml. Any of them may be missing.
BELOW = ("methods.yaml", "recipes.yaml", "sweeps.yaml")
RESERVED = ("reference", "certificates", "dvc")  # folders of reports/ beside those of studies


def load_study(params: Path, study: str | None = None, sweep: str | None = None) -> Study:
    """The study of this name, or the one that params.yaml names, resolved and checked.

    Args:
        sweep: a sweep to take whether the study lists it or not.

    Raises:
        UserError: as `load_params`, or a value cannot work; or there is no such sweep.
    """
    loaded = load_params(params, study)
    try:
        if sweep is not None:
            require_known("--sweep", sweep, loaded.sweeps)
    except ValueError as error:
        raise UserError(str(error)) from None
    if sweep is not None and sweep not in loaded.sweep:
        loaded = loaded.model_copy(update={"sweep": [*loaded.sweep, sweep]})
    try:
        return resolve_study(loaded)
    except (UserError, ValueError) as error:
        raise UserError(f"{_files(params, loaded.study)}:\n{error}") from None


def load_params(params: Path, study: str | None = None) -> Params:
    """The parameters of a study as they are given: all its files laid upon each other, recipes upon their bases.

    The claims that its report judges come from `workflow/claims.yaml`, if that is there.

    Raises:
        UserError: a file is missing, a key is unknown or a value has the wrong type; every problem that can be told at
            once is in the message.
    """
    raw = _mapping(params)
    study = str(study or raw.get("study", ""))
    folder = params.parent / "workflow"
    path = folder / "studies" / f"{study}.yaml"
    if not (re.fullmatch(NAME, study) and path.is_file()):
        known = sorted(entry.stem for entry in path.parent.glob("*.yaml"))
        raise UserError(f"study: '{study}' has no file {path}; {suggestion(study, known)}")
    if study in RESERVED:
        raise UserError(f"study: '{study}' is the name of a folder in reports/ that is no study's; rename {path}")
    merged: dict[str, Any] = {}
    for layer in (*(_mapping(folder / name) for name in BELOW if (folder / name).is_file()), raw, _mapping(path)):
        merged = overlay(merged, layer)
    claims = folder / "claims.yaml"
    try:
        if "claims" in merged:
            raise UserError(f"claims: they belong in {claims}; move them there")
        if isinstance(merged.get("recipes"), dict):
            merged["recipes"] = with_bases(merged["recipes"])
        loaded = validate(Params, merged | {"study": study})
    except (UserError, ValueError) as error:
        raise UserError(f"{_files(params, study)}:\n{error}") from None
    return loaded.model_copy(update={"claims": load_claims(claims, loaded)}) if claims.is_file() else loaded


def _mapping(path: Path) -> dict[str, Any]:
    content = read_yaml(path) or {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping of parameters, found {type(content).__name__}")
    return content


def _files(params: Path, study: str) -> str:
    """The files that a study's parameters come from, for messages."""
    folder = params.parent / "workflow"
    below = [folder / name for name in BELOW if (folder / name).is_file()]
    return ", ".join(map(str, [*below, params, folder / "studies" / f"{study}.yaml"]))
