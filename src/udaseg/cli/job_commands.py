"""The verbs of one job, each from the job's spec. Heavy modules are imported by the verb that needs them."""

import shutil
import sys
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from udaseg.errors import UserError
from udaseg.jobs.fingerprint import reread
from udaseg.jobs.job import STATE, code_of
from udaseg.machine.cpu import limit_instructions, limit_numpy
from udaseg.machine.torch_errors import nondeterminism_explained
from udaseg.runs.files import remove_unfinished, write_json, write_yaml
from udaseg.runs.folder import MARKER, is_whole, locked, publish
from udaseg.runs.kinds import KINDS
from udaseg.runs.spec import (
    HASH_DIGITS,
    DownloadSpec,
    PrepareSpec,
    ReportSpec,
    Spec,
    TrainSpec,
    digest,
    exactness,
    published,
    read_spec,
)

DOWNLOADS = Path("data/downloads")


def run_job(options: Namespace) -> None:
    """Run a job of the kind `options.verb`, or resume it; a finished one is left as it is.

    One process at a time works in state/FOLDER/build, whose files become the result.
    """
    kind = KINDS[options.verb]
    spec: Any = read_spec(kind.spec, options.spec)
    _limit_cpu(spec)
    folder, state = Path(spec.folder), STATE / spec.folder
    build = state / "build"
    with locked(state / "lock"):
        if is_whole(folder) if kind.marker == MARKER else (folder / kind.marker).is_file():
            print(f"{folder}: finished already", file=sys.stderr)
            _forget(state)  # a kill between publishing and this leaves the state behind
            return
        if kind.resumes:
            remove_unfinished(state)
        else:  # what a killed attempt left may have been made from other data
            _forget(state)
            build.mkdir(parents=True)
        devices = [_device()] if kind.on_device else []  # which may mean a long wait
        _require_code(spec, "since the plan was made; start the same command again")
        with nondeterminism_explained(f"{folder}: {spec.method}" if isinstance(spec, TrainSpec) else str(folder)):
            _function(kind.work)(spec, build, *devices)
        # Again, because modules are imported after the first look at their files.
        _require_code(
            spec, "while the job ran, so its result is not used; undo the change, or start the workflow again"
        )
        if kind.marker == MARKER:
            write_yaml(build / "spec.yaml", published(spec))
        publish(build, folder, spec.folder, spec.kind, kind.marker)
        _forget(state)


def _limit_cpu(spec: Spec) -> None:
    """Choose the CPU's instructions, before NumPy and PyTorch are loaded."""
    settings = exactness(spec)
    if settings is None:
        limit_numpy()
    else:
        limit_instructions(settings)


def _require_code(spec: Any, when: str) -> None:
    """UserError when the source code is no longer that of the spec."""
    reread()
    if code_of(spec) != spec.code:
        raise UserError(f"{spec.folder}: the source code changed {when}")


def _function(name: str) -> Callable[..., None]:
    """The function `name`, as "module:function"."""
    module, _, function = name.partition(":")
    found: Callable[..., None] = getattr(import_module(module), function)
    return found


def _device() -> Any:
    """The torch device of this process, locked until it ends."""
    from udaseg.machine.devices import take_device

    taken = take_device()  # before torch starts CUDA

    import torch

    return torch.device(taken.kind)


def _forget(state: Path) -> None:
    """Remove what an interrupted job would resume from, but not the lock that this process holds."""
    shutil.rmtree(state / "build", ignore_errors=True)
    for path in [*state.glob("resume*"), state / "cost.json"]:
        path.unlink(missing_ok=True)


def prepare(spec: PrepareSpec, build: Path) -> None:
    """Write the prepared set into `build`, fetching the data set's archive first where it has one."""
    from udaseg.data.sets.prepare import prepare as prepare_set

    shutil.rmtree(spec.folder, ignore_errors=True)  # has no marker: what is in it is left over from a killed attempt
    dataset = _dataset(spec)
    opened = dataset.open(_fetched(dataset, spec.mirror, DOWNLOADS))
    prepare_set(spec.name, opened, spec.dataset, spec.classes, spec.size, build)


def train(spec: TrainSpec, build: Path, device: Any) -> None:
    """Train in the parent of `build`, where the checkpoints are, and describe the environment in env.json."""
    from udaseg.engine.train import Training
    from udaseg.machine.environment import describe
    from udaseg.methods import METHODS

    Training(spec, METHODS[spec.method], build.parent, device).run()
    write_json(build / "env.json", describe(device, spec.train, spec.code))


def download(options: Namespace) -> None:
    """Download, verify and unpack a data set's archive; what is already there is left as it is."""
    spec = read_spec(DownloadSpec, options.spec)
    print(_fetched(_dataset(spec), spec.mirror, Path(spec.folder).parent))


def _dataset(spec: DownloadSpec | PrepareSpec) -> Any:
    """The spec's data set, as the model of its kind."""
    from udaseg.study.datasets import resolve_dataset

    return resolve_dataset(spec.dataset, "dataset")


def _fetched(dataset: Any, mirror: str | None, downloads: Path) -> Path | None:
    """The folder with the verified files of the data set's archive, fetched if need be; None if it has none."""
    from udaseg.data.archives.fetch import fetch

    return dataset.archive and fetch(dataset.archive, Path(mirror).expanduser() if mirror else None, downloads)


def report(options: Namespace) -> None:
    """Write a study's tables, figures and page, then the marker that says for which plan they were written."""
    from udaseg.archive.keep import origin
    from udaseg.reports.build import build_report

    spec = read_spec(ReportSpec, options.spec)
    for marker in (STATE / "reports").glob(f"{spec.study}-{'?' * HASH_DIGITS}.json"):
        marker.unlink()  # its report is overwritten now: going back to an earlier plan must write that one again
    of = origin(spec)
    with locked(STATE / "reports" / f"{spec.study}.lock"):
        remove_unfinished(Path(spec.output))
        build_report(options.spec)
        write_json(STATE / "reports" / f"{spec.study}-{digest(spec)}.json", {"of": of})
    print(f"{spec.output}/index.html")


def track(options: Namespace) -> None:
    """Send a study's finished runs to MLflow. A store that is down leaves a note and is no failure."""
    from udaseg.tracking.store import track as send

    spec = read_spec(ReportSpec, options.spec)
    send(options.spec, STATE / "tracking" / f"{spec.study}-{digest(spec)}.json")


def predict(options: Namespace) -> None:
    """Write label maps, overlays and, on request, scores of a user's own images at their native size."""
    limit_instructions(read_spec(TrainSpec, options.run / "spec.yaml").train)
    from udaseg.engine.apply import predict_files

    with nondeterminism_explained(str(options.run)):
        predict_files(options.run, options.images, options.output, options.weights, options.scores, options.ids)
