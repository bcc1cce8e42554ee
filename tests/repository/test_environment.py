"""pyproject.toml, requirements.lock, environment.yml and the running interpreter say the same."""

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, TOOLS = PYPROJECT["project"], PYPROJECT["tool"]
LOCK = (ROOT / "requirements.lock").read_text()
# One entry: a requirement and its options, over lines that end with a backslash.
ENTRIES = [
    entry for entry in re.sub(r"\\\n\s*", "", LOCK).splitlines() if entry.strip() and not entry.lstrip().startswith("#")
]
FORM = re.compile(
    r"(?P<name>[a-z0-9.-]+)==(?P<version>[A-Za-z0-9.+!]+)( ; (?P<marker>[^#]*?))?( ?--hash=sha256:[0-9a-f]{64})+"
)
MATCHES = [match for entry in ENTRIES if (match := FORM.fullmatch(entry))]
LOCKED = {canonicalize_name(match["name"]): Version(match["version"]) for match in MATCHES}
MARKERS = {canonicalize_name(match["name"]): Marker(match["marker"]) for match in MATCHES if match["marker"]}
CLAIMED = [f"3.{minor}" for minor in range(30) if SpecifierSet(PROJECT["requires-python"]).contains(f"3.{minor}.0")]
DECLARED = [
    *PROJECT["dependencies"],
    *(requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra),
]


@pytest.mark.parametrize("declared", DECLARED)
def test_every_dependency_is_locked_at_a_version_that_satisfies_it(declared: str) -> None:
    requirement = Requirement(declared)
    version = LOCKED.get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} is in pyproject.toml, not in requirements.lock: run `make lock`"
    assert version in requirement.specifier, f"requirements.lock has {requirement.name} {version}, not {declared}"


def test_every_locked_entry_is_one_version_with_hashes() -> None:
    wrong = [entry[:100] for entry in ENTRIES if not FORM.fullmatch(entry)]
    assert not wrong, f"not of the form name==version --hash=sha256:…: {wrong}"
    assert len(LOCKED) == len(ENTRIES), "an entry stands twice"


@pytest.mark.parametrize(
    "address", ["://", "--index-url", "--extra-index-url", "--find-links", "--trusted-host", " @ "]
)
def test_the_lock_names_no_index(address: str) -> None:
    assert address not in LOCK


def test_conda_installs_the_lock_and_a_python_that_we_claim() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip_lines = [line for entry in environment["dependencies"] if isinstance(entry, dict) for line in entry["pip"]]
    assert pip_lines == ["-r requirements.lock"], "hashes hold for a whole pip call: nothing may stand beside the lock"
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"], "packages come from the lock, not from conda"


def test_the_pythons_that_are_claimed_are_the_same_everywhere() -> None:
    classifiers = [
        entry.rsplit(" ", 1)[1]
        for entry in PROJECT["classifiers"]
        if entry.startswith("Programming Language :: Python ::")
    ]
    assert classifiers == CLAIMED
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in CLAIMED
    newest_first = list(reversed(CLAIMED))
    makefile = (ROOT / "Makefile").read_text()
    assert f"for name in {' '.join(f'python{each}' for each in newest_first)} python3 python " in makefile
    assert f"for version in {' '.join(newest_first)}; do" in (ROOT / ".ci" / "run").read_text()
    bounds = re.search(r"\(3, (\d+)\) <= sys.version_info < \(3, (\d+)\)", makefile)
    assert bounds is not None
    assert [f"3.{minor}" for minor in range(*map(int, bounds.groups()))] == CLAIMED


def test_tools_and_lock_are_set_to_the_oldest_python() -> None:
    oldest = CLAIMED[0]
    assert TOOLS["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert TOOLS["mypy"]["python_version"] == oldest
    assert f"--universal --python-version {oldest} " in LOCK.splitlines()[1]


def test_every_python_gets_the_same_packages() -> None:
    def packages(python: str) -> set[str]:
        on = {"python_version": python, "python_full_version": f"{python}.0"}
        return {name for name in LOCKED if name not in MARKERS or MARKERS[name].evaluate(on)}

    assert all(packages(python) == packages(CLAIMED[0]) for python in CLAIMED)


def test_what_is_installed_is_what_is_locked() -> None:
    def installed(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "missing"

    wanted = {name: version for name, version in LOCKED.items() if name not in MARKERS or MARKERS[name].evaluate()}
    found = {name: installed(name) for name in wanted}
    # A build of torch for one kind of hardware carries a local label (2.0+cpu) that the lock does not.
    wrong = {
        name: f"{found[name]} instead of {version}"
        for name, version in wanted.items()
        if found[name] == "missing" or Version(found[name]).public != version.public
    }
    assert not wrong, f"installed and requirements.lock differ, run `make environment`: {wrong}"
    assert importlib.metadata.version("udaseg") == PROJECT["version"]
