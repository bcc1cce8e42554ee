"""Nothing that is read can run code, nothing that is named becomes a command, and no secret is written anywhere."""

import ast
import json
import pickle
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from support.project import ROOT, load, tiny
from support.tiny import stepper, train_spec

from udaseg.cli.main import main
from udaseg.data.sets.pseudo_labels import PseudoLabels
from udaseg.engine.checkpoint import load_resume, load_tensors
from udaseg.errors import UserError
from udaseg.nets.weights import file_weights
from udaseg.runs.counts import read_counts
from udaseg.runs.files import read_json, read_yaml, sha256
from udaseg.runs.folder import is_whole
from udaseg.study.load import load_study
from udaseg.types import NAME, Name, PathText, PointName

PYTHON = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("*.py"))
RULES = ["Snakefile", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "workflow").rglob("*.smk"))]

# ------------------------------------------------------------------------------------------------ what the source calls

PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
SERVERS = {"http.server", "socketserver", "xmlrpc", "wsgiref", "flask", "uvicorn"}
# Calls that run a text, unpack unchecked, or name a temporary file that another process can take first.
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput", "tempfile.mktemp"),
    *("subprocess.getstatusoutput", "torch.load", "torch.save", "torch.hub.load", "np.fromfile", "runpy.run_path"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "pd.read_pickle", "shutil.unpack_archive"),
}
FORBIDDEN_METHODS = {"extractall", "to_pickle", "read_pickle"}
# Calls that are safe with one keyword only.
NEEDED = {
    "np.load": ("allow_pickle", "False"),
    "np.save": ("allow_pickle", "False"),
    "yaml.load": ("Loader", "_Loader"),  # of udaseg.runs.files, a safe one: see below
    "get_state_dict": ("weights_only", "True"),
    "load_state_dict_from_url": ("weights_only", "True"),
    "jinja2.Environment": ("autoescape", "True"),
}


def breaches(text: str) -> Iterator[str]:
    """What a module does that none may, a line each."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = [f"{module}.{alias.name}".strip(".") for alias in node.names]
            for name in names:
                if {name.partition(".")[0], module} & PICKLES and name not in ("pickle", "pickle.UnpicklingError"):
                    yield f"{node.lineno}: imports {name}"
                if any(f"{name}.".startswith(f"{server}.") for server in SERVERS):
                    yield f"{node.lineno}: imports {name}"
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            if node.attr != "UnpicklingError":  # what torch raises when it refuses a file
                yield f"{node.lineno}: uses pickle.{node.attr}"
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            keyword, value = NEEDED.get(name, NEEDED.get(name.rpartition(".")[2], ("", "")))
            if name in FORBIDDEN or name.rpartition(".")[2] in FORBIDDEN_METHODS:
                yield f"{node.lineno}: calls {name}"
            if keyword and given.get(keyword) != value:
                yield f"{node.lineno}: calls {name} without {keyword}={value}"
            if given.get("shell", "False") != "False":
                yield f"{node.lineno}: starts a shell"


def test_no_module_can_run_what_it_reads() -> None:
    found = [f"{file}:{breach}" for file in PYTHON for breach in breaches((ROOT / file).read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        *("import pickle\npickle.load(file)", "from pickle import loads", "import joblib", "from dill import load"),
        *("torch.load(path, weights_only=True)", "np.load(path)", "np.load(path, allow_pickle=True)", "eval(text)"),
        *("yaml.load(text)", "yaml.load(text, Loader=yaml.Loader)", "yaml.unsafe_load(text)", "os.system(text)"),
        *("subprocess.run(text, shell=True)", "weights.get_state_dict(check_hash=True)", "tempfile.mktemp()"),
        *("tar.extractall()", "from http import server", "import http.server", "jinja2.Environment()"),
    ],
)
def test_a_breach_is_seen(text: str) -> None:
    assert list(breaches(text))


def test_rules_quote_whatever_they_put_into_a_command() -> None:
    """The interpreter and verb come first, in the Snakefile's own words; every path after them is quoted."""
    for file in RULES:
        text = (ROOT / file).read_text()
        assert not re.search(r"\b(eval|exec)\(|os\.system|subprocess|shell=True", text), file
        commands = re.findall(r'(?:shell:\s*|shell\()"([^"]*)"', text)
        assert len(commands) == len(re.findall(r"\bshell[:(]", text)), f"{file}: a command that is not seen here"
        for command in commands:
            for field in re.findall(r"{([^}]*)}", command):
                assert field == "UDASEG" or field.endswith(":q"), f"{file}: {{{field}}} in '{command}'"


# -------------------------------------------------------------------------------------------- what is read runs nothing


class Payload:
    """What a hostile pickle does when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[Path]:
    """A folder with pickles under many names; when the test is over, none has been executed."""
    pwned, folder = tmp_path / "pwned", tmp_path / "files"
    folder.mkdir()
    content = pickle.dumps({"weight": Payload(pwned)})
    for name in ("pickle.safetensors", "pickle.npz", "pickle.pth", "soft/a.safetensors", "labels.json", "spec.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    torch.save({"weight": Payload(pwned)}, folder / "torch.safetensors")
    np.savez(folder / "object.npz", counts=np.array([Payload(pwned)], dtype=object))
    np.save(folder / "array.npz", np.array([Payload(pwned)], dtype=object), allow_pickle=True)
    (folder / "run.json").write_bytes(content)
    yield folder
    assert not pwned.exists()
    pickle.loads(content)
    assert pwned.exists()  # had it been read as what it is


@pytest.mark.parametrize("name", ["pickle.safetensors", "torch.safetensors", "pickle.pth"])
def test_weights_are_no_pickles(hostile: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: (not a whole safetensors file|initial weights are read from)"):
        file_weights(hostile / name)
    with pytest.raises(UserError, match=rf"{name}: cannot be read as safetensors"):
        load_tensors(hostile / name)


@pytest.mark.parametrize("name", ["pickle.npz", "object.npz", "array.npz"])
def test_counts_are_no_pickles(hostile: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: cannot be read as counts"):
        read_counts(hostile / name, np.zeros((2, 2), dtype=np.int64))


@pytest.mark.parametrize("name", ["pickle.safetensors", "torch.safetensors"])
def test_a_checkpoint_is_no_pickle_even_where_its_checksum_is_right(hostile: Path, name: str) -> None:
    made = stepper(train_spec())
    (hostile / name).rename(hostile / f"resume-00000003-{sha256(hostile / name)[:16]}.safetensors")
    with pytest.raises(UserError, match=r"resume-00000003-\w+\.safetensors: cannot be read as safetensors"):
        load_resume(hostile, made.method, {})


def test_descriptions_are_no_pickles(hostile: Path) -> None:
    assert not is_whole(hostile)
    with pytest.raises(UserError, match=r"run\.json: cannot be read as JSON"):
        read_json(hostile / "run.json")
    with pytest.raises(UserError, match=r"spec\.yaml"):
        read_yaml(hostile / "spec.yaml")
    with pytest.raises(UserError, match=r"labels\.json"):
        PseudoLabels(hostile)


@pytest.mark.parametrize(
    "text",
    [
        *("!!python/object/apply:pathlib.Path.touch [pwned]", "!!python/name:os.system", "!x 1"),
        *("2026-99-99", "{? [1, 2] : 3}", "[" * 2000, "1" * 5000),  # for which the loader has no error of its own
    ],
    ids=lambda text: text[:20],
)
def test_yaml_makes_no_objects(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(f"study: {text}\n")
    with pytest.raises(UserError, match=r"spec\.yaml: cannot be read as YAML"):
        read_yaml(tmp_path / "spec.yaml")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "content", ["[]", "3", "null", '{"files": []}', '{"files": {"../run.json": null}}', '{"files": {}']
)
def test_a_marker_of_other_content_is_no_finished_run(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    assert not is_whole(tmp_path)


# ----------------------------------------------------------------------------------------- names that would be commands

COMMANDS = [
    *("; rm -rf ~", "$(touch pwned)", "`touch pwned`", "../up", "a/b", "-rf", "two words", "a\ntouch pwned", "a\n"),
    *("a'b", 'a"b', "a\0b", "~", "*", "|cat", "a" * 300, ""),
]


FEW = settings(max_examples=50, deadline=None)


@FEW
@given(st.one_of(st.text(), st.from_regex(NAME), st.sampled_from(COMMANDS)))
@example("name\n")
def test_a_name_that_is_taken_is_one_word_of_a_command_and_one_part_of_a_path(text: str) -> None:
    try:
        taken = TypeAdapter(Name).validate_json(json.dumps(text))
    except ValidationError:
        assert not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,39}", text)
    else:
        assert taken == text == shlex.quote(text) and Path(text).name == text and not text.startswith(("-", "."))


@FEW
@given(st.one_of(st.text(), st.text("/.a$;'\"\n\0 -"), st.sampled_from(COMMANDS)))
def test_what_jobs_are_told_of_paths_has_neither_spaces_nor_quotes(text: str) -> None:
    try:
        TypeAdapter(PathText).validate_json(json.dumps(text))
    except ValidationError:
        return
    assert not set(text) & set(" \t\n\r\0;|&<>()`'\"\\*?[]!#")


@FEW
@given(st.one_of(st.text(), st.sampled_from(COMMANDS)))
def test_names_of_points_are_one_part_of_a_path(text: str) -> None:
    try:
        TypeAdapter(PointName).validate_json(json.dumps(text))
    except ValidationError:
        return
    assert not set(text) & set("/\n\0;|&<>`'\"$\\*?")


@pytest.mark.parametrize("text", COMMANDS)
def test_the_schema_refuses_names_that_would_be_commands(tmp_path: Path, text: str) -> None:
    """Each is named in the one message, by its key."""
    stage, sweep = {"method": "dann"}, {"title": "Sweep", "recipe": "dann", "over": {"main.weights.domain": [0.1]}}
    over = {
        "datasets": {text: {"kind": "objects", "world": 1, "size": [8, 8], "counts": {"train": 1}}},
        "task": {"classes": ["road", text], "class_sets": {text: ["road"]}, "source": {"dataset": text}},
        "methods": {text: {"knobs": {}, "weights": {}}},
        "recipes": {text: {"title": "Recipe", "stages": {"main": stage}}, "dann": {"stages": {text: stage}}},
        "sweeps": {text: sweep, "points": {"title": "Sweep", "recipe": "dann", "points": {text: {}}}},
        "run": [text], "sweep": [text], "report": {"oracle": text},
    }  # fmt: skip
    if text in ("two words", "-rf"):  # as the name of a point, which is part of no path
        over["sweeps"].pop("points")
    with pytest.raises(UserError) as caught:
        load(tmp_path, tiny(**over))
    message = str(caught.value)
    for key in (
        *(f"datasets.{text}", "task.classes.", f"task.class_sets.{text}", "task.source.dataset", f"methods.{text}"),
        *(f"recipes.{text}", f"recipes.dann.stages.{text}", f"sweeps.{text}", "run.0", "sweep.0", "report.oracle"),
        *([f"sweeps.points.points.{text}"] if "points" in over["sweeps"] else []),
    ):
        assert f"\n{key}" in message, key


@pytest.mark.parametrize("text", COMMANDS[:-1])  # without a name it is the one that params.yaml names
def test_a_study_is_named_by_a_word(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, tiny())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^study: '(.|\n)*' has no file "):
        load_study(Path("params.yaml"), text)
    if "\0" not in text:
        assert main(["plan", f"--study={text}"]) == 1


@pytest.mark.parametrize(
    ("over", "key"),
    [
        ({"mirror": "a\nb"}, "mirror"),
        ({"mirror": "https://me:s3cr3t@host/x"}, "mirror: is an address"),
        (
            {"recipes": {"dann": {"stages": {"main": {"init": {"student": "file:https://me:s3cr3t@host/x"}}}}}},
            "recipes",
        ),
        ({"datasets": {"mine": {"root": "a\0b"}}}, "datasets.mine.root"),
        ({"datasets": {"mine": {"root": "s3://key:s3cr3t@bucket"}}}, "datasets.mine.root: is an address"),
    ],
)
def test_paths_of_users_are_folders_of_one_line(tmp_path: Path, over: dict[str, Any], key: str) -> None:
    for dataset in over.get("datasets", {}).values():
        dataset |= {"kind": "folder", "class_map": {"0": "road"}}
    with pytest.raises(UserError, match=rf"\n{key}") as caught:
        load(tmp_path, tiny(**over))
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("path", ["/data/my images; touch pwned", "$(touch pwned)/`x`", 'it\'s "here"', "Bilder für ä"])
def test_paths_of_users_may_have_any_other_character(tmp_path: Path, path: str) -> None:
    mine = {"kind": "folder", "root": path, "class_map": {"0": "road"}}
    study = load(tmp_path, tiny(datasets={"mine": mine}, mirror=path))
    assert study.params.mirror == path == study.params.datasets["mine"]["root"]


# ------------------------------------------------------------------------------------------------------------ addresses


def test_nothing_listens_to_the_network() -> None:
    from mlflow.utils.cli_args import HOST

    options = {parameter.name: parameter.default for parameter in HOST(lambda: None).__click_params__}
    assert options == {"host": "127.0.0.1"}  # of `mlflow ui` and `mlflow server`, as the README starts them
    shown = ["README.md", "Makefile", *RULES, *PYTHON]
    shown += [path.relative_to(ROOT).as_posix() for path in (ROOT / "profiles").rglob("*") if path.is_file()]
    for name in shown:
        text = (ROOT / name).read_text()
        assert not re.search(r"0\.0\.0\.0|mlflow (ui|server)[^\n]*(--host|-h )|MLFLOW_HOST", text), name


def test_yaml_is_read_by_a_safe_loader() -> None:
    from udaseg.runs import files as runs

    assert issubclass(runs._Loader, (yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
