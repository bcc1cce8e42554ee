"""A job and a plan: what there is to do, where it lies, and the file whose existence means that it is done."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from udaseg.jobs.fingerprint import fingerprint
from udaseg.methods import METHODS
from udaseg.runs.files import read_yaml, write_yaml
from udaseg.runs.kinds import KINDS
from udaseg.runs.spec import ReportSpec, Spec, TrainSpec, digest

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
        """The file, or the folder that appears by rename, whose existence means that the job is done."""
        if isinstance(self.spec, ReportSpec):
            # A report has fixed names: not its existence but the hash of its spec tells whether it is up to date.
            return f"{STATE}/reports/{self.spec.study}-{digest(self.spec)}.json"
        return str(Path(self.folder) / KINDS[self.kind].marker)

    @property
    def spec_path(self) -> Path:
        """Where the spec is written for the verb that runs the job."""
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
        """The state of one of its jobs: "done", "kept" (a record stands for it) or "todo"."""
        return "done" if Path(job.marker).exists() else "kept" if job.folder in self.left_out else "todo"

    def of_kind(self, kind: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.kind == kind]

    @property
    def report(self) -> Job:
        return self.of_kind("report")[0]

    @property
    def tracking_note(self) -> str:
        """Where the tracking job notes what it sent, or why it could not send it."""
        return f"{STATE}/tracking/{Path(self.report.marker).name}"


def code_of(spec: Spec) -> str:
    """Fingerprint of the code that decides the result of a spec's job."""
    method = METHODS.module(spec.method) if isinstance(spec, TrainSpec) else ""
    return fingerprint(*(module.format(spec=spec, method=method) for module in KINDS[spec.kind].code))


def write_specs(plan: Plan) -> None:
    """Write every job's spec to the file that its verb reads."""
    for job in plan.jobs.values():
        content = job.spec.model_dump(mode="json")
        if not job.spec_path.is_file() or read_yaml(job.spec_path) != content:
            write_yaml(job.spec_path, content)


def unneeded_archives(plan: Plan) -> frozenset[str]:
    """Folders of archives that are missing and not needed, because all their sets are prepared (as after a pull)."""
    needed = {parent.folder for job in plan.jobs.values() if not Path(job.marker).exists() for parent in job.parents}
    archives = plan.of_kind("download")
    return frozenset(job.folder for job in archives if job.folder not in needed and plan.state(job) == "todo")


def unplanned(plans: list[Plan], root: Path) -> Iterator[Path]:
    """Folders of jobs below `root` that no plan has, in alphabetical order. Downloads and reports are not listed.

    A job's folder inside an unplanned one goes with it and is not listed either.
    """
    planned = {root / job.folder for plan in plans for job in plan.jobs.values()}
    found = {folder for kind in KINDS.values() if kind.work for folder in root.glob(kind.folder) if folder.is_dir()}
    unplanned = found - planned
    for folder in sorted(unplanned):
        if unplanned.isdisjoint(folder.parents):
            yield folder
