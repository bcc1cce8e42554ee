"""pyproject.toml, requirements.lock, environment.yml and the running interpreter say the same."""

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
# One entry: a requirement and its options, over lines that end with a backslash.
ENTRIES = [
    entry for entry in re.sub(r"\\\n\s*", "", LOCK).splitlines() if entry.strip() and not entry.lstrip().startswith("#")
]
LOCKED = {
    canonicalize_name(match["name"]): Version(match["version"])
    for entry in ENTRIES
    if (match := re.match(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)", entry))
}
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
    form = re.compile(r"[a-z0-9.-]+==[A-Za-z0-9.+!]+( ?--hash=sha256:[0-9a-f]{64})+")
    wrong = [entry[:100] for entry in ENTRIES if not form.fullmatch(entry)]
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
    python = [entry.removeprefix("python=") for entry in conda if entry.startswith("python=")]
    assert len(python) == 1
    assert sorted(set(conda)) == sorted(["pip", f"python={python[0]}"]), "packages come from the lock, not from conda"
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python[0]}.0")


def test_only_the_python_that_is_tested_is_claimed() -> None:
    claimed = {
        entry.rsplit(" ", 1)[1]
        for entry in PROJECT["classifiers"]
        if entry.startswith("Programming Language :: Python ::")
    }
    assert claimed == {f"{sys.version_info.major}.{sys.version_info.minor}"}
    specifier = SpecifierSet(PROJECT["requires-python"])
    allowed = {f"3.{minor}" for minor in range(30) if specifier.contains(f"3.{minor}.0")}
    assert allowed == claimed


def test_what_is_installed_is_what_is_locked() -> None:
    def installed(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "missing"

    found = {name: installed(name) for name in LOCKED}
    # A build of torch for one kind of hardware carries a local label (2.0+cpu) that the lock does not.
    wrong = {
        name: f"{found[name]} instead of {version}"
        for name, version in LOCKED.items()
        if found[name] == "missing" or Version(found[name]).public != version.public
    }
    assert not wrong, f"installed and requirements.lock differ, run `make environment`: {wrong}"
    assert importlib.metadata.version("udaseg") == PROJECT["version"]
