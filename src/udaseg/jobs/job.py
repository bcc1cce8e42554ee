"""A job and a plan: what there is to do, where it lies, and the file whose existence says that it is done."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from udaseg.runs.files import read_yaml, write_yaml
from udaseg.runs.folder import MARKER
from udaseg.runs.spec import DownloadSpec, PrepareSpec, ReportSpec, Spec, digest

STATE = Path("state")


@dataclass(frozen=True)
class Job:
    """One job: its spec, the jobs it needs, and where its spec, state and result lie."""

    spec: Spec
    parents: tuple["Job", ...] = ()
    label: str = ""  # for people: recipe, stage and seed of the study that planned it

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def folder(self) -> str:
        return self.spec.output if isinstance(self.spec, ReportSpec) else self.spec.folder

    @property
    def marker(self) -> str:
        """The file, or folder that appears by rename, whose existence says that the job is done."""
        if isinstance(self.spec, DownloadSpec):
            return self.folder
        if isinstance(self.spec, PrepareSpec):
            return f"{self.folder}/set.json"
        if isinstance(self.spec, ReportSpec):
            # A report has fixed names, so that its existence is not its freshness: the hash of its spec is.
            return f"{STATE}/reports/{self.spec.study}-{digest(self.spec)}.json"
        return f"{self.folder}/{MARKER}"

    @property
    def spec_path(self) -> Path:
        """Where the job's spec is written for the verb that runs it."""
        name = f"{self.folder}-{digest(self.spec)}" if isinstance(self.spec, ReportSpec) else self.folder
        return STATE / "specs" / f"{name}.yaml"


@dataclass
class Plan:
    """All jobs of a study by folder, in an order in which parents come first."""

    study: str
    jobs: dict[str, Job] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()  # folders of jobs that are not to be made: records stand for their results

    def add(self, job: Job) -> Job:
        return self.jobs.setdefault(job.folder, job)

    def state(self, job: Job) -> str:
        """Of one of its jobs, in four letters: done, kept (it is left out) or todo."""
        return "done" if Path(job.marker).exists() else "kept" if job.folder in self.left_out else "todo"

    def of_kind(self, kind: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.kind == kind]

    @property
    def report(self) -> Job:
        return self.of_kind("report")[0]

    @property
    def tracking_note(self) -> str:
        """Where the tracking job notes what it sent, or why it could not."""
        return f"{STATE}/tracking/{Path(self.report.marker).name}"


def write_specs(plan: Plan) -> None:
    """Write every job's spec to where its verb reads it. The one thing here that writes."""
    for job in plan.jobs.values():
        content = job.spec.model_dump(mode="json")
        if not job.spec_path.is_file() or read_yaml(job.spec_path) != content:
            write_yaml(job.spec_path, content)


def unneeded_archives(plan: Plan) -> frozenset[str]:
    """Folders of archives that are not here and of which every set is prepared already, as after a pull."""
    needed = {parent.folder for job in plan.jobs.values() if not Path(job.marker).exists() for parent in job.parents}
    archives = plan.of_kind("download")
    return frozenset(job.folder for job in archives if job.folder not in needed and plan.state(job) == "todo")


def unplanned(plans: list[Plan], root: Path) -> Iterator[Path]:
    """Folders of prepared sets, runs, evaluations, pseudo-labels and translations below `root` that no plan has.

    What lies in a folder that is not planned goes with it and is not listed.
    """
    planned = {root / job.folder for plan in plans for job in plan.jobs.values()}
    found = [*root.glob("data/sets/*"), *root.glob("results/*/*/*"), *root.glob("results/*/translation-*")]
    for pattern in ("evaluate-*", "label-*", "label-*/quality-*"):
        found += [folder for folder in root.glob(f"results/*/*/*/{pattern}") if folder.parent in planned]
    for folder in sorted(found):
        if folder.is_dir() and folder not in planned:
            yield folder
