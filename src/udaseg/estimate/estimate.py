"""What a plan will cost: hours and disk space of each job, from what the finished jobs of this folder took.

No number is invented. Each has an origin:

    measured    from this job; for one still to do, from the newest finished job that did the same work
    derived     from a finished job that differs in what a note names, or a computed bound
    elsewhere   as above, but measured on another device, which a note names
    unknown     nothing similar has run here
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from udaseg.config.training import Exactness, Network
from udaseg.data.datasets import DATASETS
from udaseg.errors import UserError
from udaseg.estimate.history import Finished, benchmark, finished_jobs, size
from udaseg.jobs.job import Job, Plan
from udaseg.runs.kinds import KINDS
from udaseg.runs.spec import DownloadSpec, LabelSpec, PrepareSpec, TrainSpec

Origin = Literal["measured", "derived", "elsewhere", "unknown"]
Traits = tuple[dict[str, Any], dict[str, Any]]  # what must be equal; what may differ, the most important first


@dataclass(frozen=True)
class Amount:
    """Seconds or bytes of one job."""

    value: float | None = None
    origin: Origin = "unknown"
    note: str = ""
    device: str = ""  # on which the seconds were measured; "": on none
    bound: Literal["", ">=", "<="] = ""  # whether the value is only a bound


class Estimate:
    """Predicts the jobs of a plan from the finished jobs below the working directory.

    Args:
        plan: the jobs.
        device: the device here, see `history.device_here`.
    """

    def __init__(self, plan: Plan, device: str) -> None:
        self.plan, self.device = plan, device
        self.notes: list[str] = []  # about damaged files, which are left out
        self.finished = finished_jobs(self.notes)
        self.foreign: set[str] = set()  # folders whose spec was written by another version of the program

    def seconds(self, job: Job) -> Amount:
        """How long the job took, or will take."""
        done, own = Path(job.marker).exists(), self.finished.get(job.folder)
        if done and own:
            return Amount(own.seconds, "measured", device=own.device) if own.seconds is not None else Amount()
        if not KINDS[job.kind].on_device:
            seconds = self._tried(benchmark, job.folder)
            if seconds is not None:
                # A report's folder is the same for all plans of a study; any other folder belongs to one job.
                if job.kind == "report" and not done:
                    return Amount(seconds, "derived", "from the study's previous report")
                return Amount(seconds, "measured")
        return Amount() if done else self._alike(job)

    def _alike(self, job: Job) -> Amount:
        """Seconds of the most similar finished job, on this device if there is one."""
        timed = [old for old in self.finished.values() if old.seconds is not None]
        found = self._nearest(job, self._effort, [old for old in timed if old.device in ("", self.device)])
        here = found is not None
        found = found or self._nearest(job, self._effort, timed)
        if found is None:
            return Amount()
        old, differing = found
        seconds = old.pace * job.spec.train.iterations if old.pace and isinstance(job.spec, TrainSpec) else old.seconds
        amount = Amount(seconds, "derived" if differing else "measured", _difference(differing), old.device)
        if here:
            return amount
        return replace(amount, origin="elsewhere", note=f"on {old.device}, {amount.note}".removesuffix(", "))

    def disk(self, job: Job) -> Amount:
        """Bytes that the job's result takes, or will take."""
        if Path(job.marker).exists():
            taken = self._tried(size, job.folder)
            return Amount(taken, "measured") if taken is not None else Amount()
        if found := self._nearest(job, self._content, self.finished.values()):
            old, differing = found
            taken = self._tried(size, old.folder)
            if taken is not None:
                return Amount(taken, "derived" if differing else "measured", _difference(differing))
        return self._computed(job)

    def _computed(self, job: Job) -> Amount:
        """A bound on the bytes of a job that no finished one is similar to."""
        spec = job.spec
        if isinstance(spec, TrainSpec) and trains_the_network(spec):
            # The last network weights, the whole method, and the best network weights if scores are monitored.
            copies = 3 if spec.monitor else 2
            weights = copies * network_bytes(spec.network, len(spec.classes))[0]
            return Amount(weights, "derived", "the network's weights alone", bound=">=")
        if isinstance(spec, LabelSpec) and isinstance(images := self._images(spec.set, "train"), tuple):
            height, width, count = images
            if spec.labels.rule in ("entropy", "soft"):
                cells = len(spec.classes) * (height // 4) * (width // 4)
                return Amount(count * cells, "derived", "a byte for each class and cell", bound=">=")
            return Amount(count * height * width, "derived", "a byte for each pixel, before compression", bound="<=")
        if isinstance(spec, DownloadSpec):
            archive = DATASETS[spec.dataset["kind"]].archive
            content = sum(length for length, _ in archive.files().values()) if archive else 0
            return Amount(content, "derived", "the files without their archive", bound=">=")
        return Amount()

    def checkpoints(self, job: Job) -> float:
        """Bytes, at least, of a training's checkpoints while it runs; 0 for a finished training and any other job."""
        spec = job.spec
        if not isinstance(spec, TrainSpec) or not trains_the_network(spec) or Path(job.marker).exists():
            return 0
        written = (spec.train.iterations - 1) // spec.train.checkpoint_every
        weights, trained = network_bytes(spec.network, len(spec.classes))
        # AdamW keeps two moments of each parameter, SGD one.
        moments = 2 if spec.optim.name == "adamw" else int(spec.optim.momentum > 0)
        return min(written, 3) * (weights + moments * trained)  # two are kept while the newest is written

    def remarks(self) -> list[str]:
        """What is ignored because it is damaged or was written by another version of the program."""
        foreign = f"not compared, as another version wrote their spec.yaml: {len(self.foreign)} of the finished jobs"
        return [*dict.fromkeys(self.notes), *([foreign] if self.foreign else [])]

    def _tried(self, read: Callable[[str], Any], folder: str) -> Any:
        """`read(folder)`; None and a note if the folder is damaged."""
        try:
            return read(folder)
        except UserError as error:
            self.notes.append(str(error))
            return None

    def _nearest(
        self, job: Job, traits: Callable[[dict[str, Any]], Traits | None], among: Iterable[Finished]
    ) -> tuple[Finished, list[str]] | None:
        """The finished job most similar in the most important traits, the newest of equals; and what differs."""
        wanted = traits(job.spec.model_dump(mode="json"))
        found = []
        for old in among:
            if old.spec["kind"] != job.kind:
                continue
            try:
                has = traits(old.spec)
            except (AttributeError, KeyError, TypeError):
                self.foreign.add(old.folder)
                continue
            if wanted and has and has[0] == wanted[0]:
                differing = [name for name, value in wanted[1].items() if has[1][name] != value]
                found.append(([name in differing for name in wanted[1]], -old.when, old.folder, old, differing))
        if not found:
            return None
        *_, old, differing = min(found, key=lambda entry: entry[:3])
        return old, differing

    def _effort(self, spec: dict[str, Any]) -> Traits | None:
        """What the time of a job depends on; None for a kind whose time cannot be estimated."""
        kind = spec["kind"]
        if kind == "train":
            train = spec["train"]
            streams = ("source", "target") if spec["target"] else ("source",)
            same = {stream: _named(train[stream], "batch", "crop") for stream in streams}
            same |= _named(spec, "method") | _named(train, "accumulate") | _net(spec)[0]
            near = {"terms": _terms(spec)} | _net(spec)[1] | _named(train, "precision", *Exactness.model_fields)
            return same, near | _named(spec, "knobs")
        if kind == "label":
            same = {"images": self._images(spec["set"], "train")} | _named(spec["labels"], "protocol") | _net(spec)[0]
            return same, _named(spec["labels"], "rule") | _net(spec)[1] | _named(spec, *Exactness.model_fields)
        if kind == "evaluate":
            same = {"images": self._images(spec["set"], spec["split"])} | _named(spec, "protocol") | _net(spec)[0]
            return same, _net(spec)[1] | _named(spec, *Exactness.model_fields)
        return self._content(spec)

    def _content(self, spec: dict[str, Any]) -> Traits | None:
        """What the bytes of a job's result depend on; None for a kind whose bytes cannot be estimated."""
        kind = spec["kind"]
        if kind == "prepare":
            drawn = {key: value for key, value in spec["dataset"].items() if key not in ("world", "version")}
            return {"drawn": drawn} | _named(spec, "size"), {"data": spec["dataset"]} | _named(spec, "classes")
        if kind == "train":
            same = {"terms": _terms(spec), "classes": len(spec["classes"]), "best": spec["monitor"] is not None}
            return same | _named(spec, "method", "knobs") | _net(spec)[0], _net(spec)[1]
        if kind == "label":
            same = {"images": self._images(spec["set"], "train"), "classes": len(spec["classes"])}
            return same | _named(spec["labels"], "rule"), _named(spec, "labels")
        if kind == "quality":
            return {"images": self._images(spec["set"], "train")}, {"rule": self._rule(spec["labels"])}
        if kind == "evaluate":
            return {"images": self._images(spec["set"], spec["split"])} | _named(spec, "pictures"), {}
        return None

    def _rule(self, folder: str) -> str:
        """The rule by which the pseudo-labels in a folder were selected; the folder itself if that is unknown."""
        job, old = self.plan.jobs.get(folder), self.finished.get(folder)
        if old:
            return str(old.spec["labels"]["rule"])
        return job.spec.labels.rule if job and isinstance(job.spec, LabelSpec) else folder

    def _images(self, folder: str, split: str) -> tuple[int, int, int] | str:
        """Height, width and number of a split's images; the set's folder if they are not known yet."""
        job, prepared = self.plan.jobs.get(folder), self.finished.get(folder)
        if prepared:
            size, counts = prepared.spec["size"], prepared.spec["counts"]
        elif job and isinstance(job.spec, PrepareSpec):
            size, counts = job.spec.size, job.spec.dataset.get("counts", {})
        else:
            return folder
        return (size[0], size[1], counts[split]) if split in counts else folder


def trains_the_network(spec: TrainSpec) -> bool:
    """Whether the network of the spec is trained; a translator has networks of its own."""
    from udaseg.methods import METHODS

    return METHODS[spec.method].SPEC.predicts == "labels"


@functools.cache
def network_bytes(network: Network, classes: int) -> tuple[int, int]:
    """Bytes of the weights of a network with one level, and of the trained ones among them. Allocates nothing."""
    import torch

    from udaseg.nets.build import build_network

    with torch.device("meta"):
        net = build_network(network, classes, levels=1, seed=0)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    return sum(tensor.nbytes for tensor in net.state_dict().values()), sum(parameter.nbytes for parameter in trained)


def _terms(spec: dict[str, Any]) -> list[str]:
    """Active loss terms of a training."""
    return sorted(term for term, weight in spec["weights"].items() if weight)


def _net(spec: dict[str, Any]) -> Traits:
    """The network's name and depth, and its settings, of which a run of an earlier version has fewer."""
    return _named(spec["network"], "name", "depth"), {"network settings": spec["network"]}


def _named(spec: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: spec.get(key) for key in keys}  # None: the record is older than the key


def _difference(differing: list[str]) -> str:
    return f"from a job with other {', '.join(differing)}" if differing else ""
