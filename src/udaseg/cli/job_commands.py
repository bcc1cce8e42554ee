"""What the verbs of one job do, each from the job's spec. Heavy modules are imported by the verb that needs them."""

import shutil
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from udaseg.errors import UserError
from udaseg.machine.cpu import limit_instructions, limit_numpy
from udaseg.machine.torch_errors import nondeterminism_explained
from udaseg.runs.files import remove_unfinished, write_json, write_yaml
from udaseg.runs.folder import is_whole, locked, publish
from udaseg.runs.spec import (
    HASH_DIGITS,
    DownloadSpec,
    EvaluateSpec,
    LabelSpec,
    PrepareSpec,
    QualitySpec,
    ReportSpec,
    TrainSpec,
    TranslateSpec,
    digest,
    published,
    read_spec,
)

STATE, DOWNLOADS = Path("state"), Path("data/downloads")


def download(options: Namespace) -> None:
    """Fetch, verify and unpack a data set's archive; what is there already is left as it is."""
    spec = read_spec(DownloadSpec, options.spec)
    print(_fetched(_dataset(spec), spec.mirror, Path(spec.folder).parent))


def _dataset(spec: DownloadSpec | PrepareSpec) -> Any:
    """The spec's data set, as the model of its kind."""
    from udaseg.study.datasets import dataset

    return dataset(spec.dataset, "dataset")


def _fetched(dataset: Any, mirror: str | None, downloads: Path) -> Path | None:
    """The folder with the verified files of the data set's archive, fetched if need be; None if it has none."""
    from udaseg.data.archives.fetch import fetch

    return dataset.archive and fetch(dataset.archive, Path(mirror).expanduser() if mirror else None, downloads)


def prepare(options: Namespace) -> None:
    """Prepare one data set; a finished one is left as it is."""
    limit_numpy()
    from udaseg.data.sets.prepare import prepare as prepare_set

    spec = read_spec(PrepareSpec, options.spec)
    folder = Path(spec.folder)
    with locked(STATE / f"{spec.folder}.lock"):
        if (folder / "set.json").is_file():
            return
        dataset = _dataset(spec)
        opened = dataset.open(_fetched(dataset, spec.mirror, DOWNLOADS))
        prepare_set(spec.name, opened, spec.dataset, spec.classes, spec.size, folder)


def train(options: Namespace) -> None:
    """Train one run, or go on with it; a finished one is left as it is."""
    spec = read_spec(TrainSpec, options.spec)
    limit_instructions(spec.train)
    from udaseg.jobs.build import training_code
    from udaseg.methods import METHODS

    def work(state: Path, device: Any) -> None:
        from udaseg.engine.train import Training
        from udaseg.machine.environment import describe

        training = Training(spec, METHODS[spec.method], state, device)
        training.run()
        write_json(state / "build" / "env.json", describe(device, spec.train, spec.code))

    _job(spec, training_code(spec.method), work)


def evaluate(options: Namespace) -> None:
    """Score one run; a finished evaluation is left as it is."""
    spec = read_spec(EvaluateSpec, options.spec)
    limit_instructions(spec)
    from udaseg.jobs.build import evaluation_code

    def work(state: Path, device: Any) -> None:
        from udaseg.engine.evaluate import evaluate as score

        _empty(state / "build")
        score(spec, state / "build", device)

    _job(spec, evaluation_code(), work)


def label(options: Namespace) -> None:
    """Label a target's training images by one run; finished labels are left as they are."""
    spec = read_spec(LabelSpec, options.spec)
    limit_instructions(spec)
    from udaseg.jobs.build import label_code

    def work(state: Path, device: Any) -> None:
        from udaseg.offline.label import label as make_labels

        _empty(state / "build")
        make_labels(spec, state / "build", device)

    _job(spec, label_code(), work)


def quality(options: Namespace) -> None:
    """Hold pseudo-labels against the truth; what is finished is left as it is."""
    from udaseg.jobs.build import quality_code

    spec = read_spec(QualitySpec, options.spec)

    def work(state: Path, device: Any) -> None:
        from udaseg.offline.quality import quality as judge

        _empty(state / "build")
        judge(spec, state / "build")

    _job(spec, quality_code(), work, on_device=False)


def translate(options: Namespace) -> None:
    """Write what a translator makes of some source images; what is finished is left as it is."""
    spec = read_spec(TranslateSpec, options.spec)
    limit_instructions(spec)
    from udaseg.jobs.build import translation_code

    def work(state: Path, device: Any) -> None:
        from udaseg.offline.translate import translate as show

        _empty(state / "build")
        show(spec, state / "build", device)

    _job(spec, translation_code(), work)


def _empty(build: Path) -> None:
    """A job that begins anew must not publish what a killed one left, which may have seen other data."""
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)


def _job(
    spec: TrainSpec | EvaluateSpec | LabelSpec | QualitySpec | TranslateSpec,
    code: str,
    work: Callable[[Path, Any], None],
    on_device: bool = True,
) -> None:
    """One writer at a time does `work(state folder, device)`; what it leaves in `state/build` becomes the result.

    Work that computes nothing with a network takes no device from others: its device is None.
    """
    folder, state = Path(spec.folder), STATE / spec.folder
    with locked(state / "lock"):
        if is_whole(folder):
            print(f"{folder}: finished already", file=sys.stderr)
            _forget(state)  # a kill between publishing and this leaves the state behind
            return
        if code != spec.code:
            raise UserError(f"{folder}: the source code changed since the plan was made; start the same command again")
        remove_unfinished(state)
        with nondeterminism_explained(f"{folder}: {spec.method}" if isinstance(spec, TrainSpec) else str(folder)):
            work(state, _device() if on_device else None)
        build = state / "build"
        write_yaml(build / "spec.yaml", published(spec))
        publish(build, folder, spec.folder, spec.kind)
        _forget(state)


def _device() -> Any:
    """The torch device of this process, locked until it ends."""
    from udaseg.machine.devices import take_device

    taken = take_device()  # before torch starts CUDA

    import torch

    return torch.device(taken.kind)


def _forget(state: Path) -> None:
    """Remove what a job keeps for going on with it, but not the lock that its process holds."""
    shutil.rmtree(state / "build", ignore_errors=True)
    for path in [*state.glob("resume*"), state / "cost.json"]:
        path.unlink(missing_ok=True)


def report(options: Namespace) -> None:
    """Write a study's tables, figures and page, then the one marker that says for which plan they were written."""
    from udaseg.archive.keep import origin
    from udaseg.reports.build import build_report

    spec = read_spec(ReportSpec, options.spec)
    for marker in (STATE / "reports").glob(f"{spec.study}-{'?' * HASH_DIGITS}.json"):
        marker.unlink()  # of what is overwritten now: going back to an earlier plan must write its report again
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
