"""The documentation does what it says: tables match the code, links lead somewhere, commands parse, examples run."""

import importlib
import importlib.util
import json
import re
import shlex
import sys
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from msa import catalog, cli
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.cache.write.reuse import borrow
from msa.types import SENTIMENT, Modality
from tests.cache.conftest import fill, make_index

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def load_generator():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_generator()


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    """Fenced blocks of a page in one of these languages."""
    return [body for language, body in FENCED.findall(page.read_text("utf-8")) if language in languages]


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text("utf-8"))


# what is generated


def test_generated_parts_are_what_the_code_says():
    stale = [name(path) for path, text in generate.generated().items() if path.read_text("utf-8") != text]
    assert stale == [], "run `make docs`"


def test_every_table_of_the_readme_is_generated():
    text = (ROOT / "README.md").read_text("utf-8")
    assert set(re.findall(r"<!-- table:(\w+) -->", text)) == set(generate.TABLES)
    assert not [line for line in generate.MARKED.sub("", text).splitlines() if line.startswith("|")]


def test_every_command_and_option_is_in_the_documentation():
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    sections = dict(re.findall(r"^## (msa.*?)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    commands = dict(generate.walk("msa", typer.main.get_command(cli.app)))
    assert sections.keys() == commands.keys()
    for called, command in commands.items():
        options = [option for p in command.params if p.name not in generate.SHELL for option in p.opts]
        for option in (option for option in options if option.startswith("--")):
            assert f"`{option}`" in sections[called], f"{called} {option}"


# what leads somewhere


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.exists(), f"{target}: there is no {path}"
        assert aim.is_relative_to(ROOT), f"{target} leads out of the repository"
        if fragment:
            headings = re.findall(r"^#+ (.*)$", prose(aim), re.MULTILINE)
            assert fragment in map(generate.anchor, headings), f"{target}: there is no such heading"


def test_pages_name_no_place_that_only_one_machine_has():
    for page in [*PAGES, *ROOT.glob("*.txt"), ROOT / "Makefile", ROOT / ".ci" / "run"]:
        assert not re.search(r"(?<![\w.~/:-])/(home|root|work|tmp|Users)/", page.read_text("utf-8")), name(page)


# what is typed


def shell(page: Path, program: str) -> list[str]:
    """The lines of a page's shell blocks that begin with a program's name, with continued lines joined."""
    joined = "\n".join(blocks(page, "sh", "bash", "console")).replace("\\\n", " ").splitlines()
    lines = [line.removeprefix("$ ").strip() for line in joined]
    return [line for line in lines if line.startswith(f"{program} ")]


def mentioned(page: Path, program: str) -> list[str]:
    """The same of what its text names in passing, as in `msa cache ls`."""
    return re.findall(rf"`({program} [^`]+)`", prose(page))


def command_of(line: str):
    """The command a line calls, its name, and the words that are left for it."""
    words = shlex.split(line, comments=True)[1:]
    command, called = typer.main.get_command(cli.app), "msa"
    while words and words[0] in getattr(command, "commands", {}):
        called = words.pop(0)
        command = command.commands[called]
    assert words[:1] == [] or words[0].startswith("-") or not hasattr(command, "commands"), f"no command {words[0]}"
    return command, called, words


def imported() -> set[str]:
    """Corpora that some page brings in with `msa cache import`: by --name, or as their file is called."""
    lines = [shlex.split(line, comments=True) for page in PAGES for line in shell(page, "msa cache import")]
    return {words[words.index("--name") + 1] if "--name" in words else Path(words[4]).stem for words in lines}


@pytest.mark.parametrize("line", [line for page in PAGES for line in shell(page, "msa")])
def test_command_lines_parse_and_name_what_exists(line, capsys):
    command, called, words = command_of(line)
    try:
        given = command.make_context(called, words).params  # refuses what is unknown, missing or of another type
    except typer.Exit:
        return  # --help
    for option, kind in {"dataset": "dataset", "model": "head"}.items():
        if option in given and called in ("extract", "train"):
            known = [*catalog.names(kind), *EXAMPLES, *imported()]
            assert given[option] in known, f"there is no {kind} {given[option]}"


@pytest.mark.parametrize("line", sorted({line for page in PAGES for line in mentioned(page, "msa")}))
def test_commands_and_options_named_in_passing_exist(line):
    command, _, words = command_of(line)
    known = {option for p in command.params for option in [*p.opts, *p.secondary_opts]} | {"-h", "--help"}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("line", sorted({line for p in PAGES for line in [*shell(p, "make"), *mentioned(p, "make")]}))
def test_make_targets_exist(line):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    words = shlex.split(line, comments=True)[1:]
    assert {word for word in words if "=" not in word} <= set(targets)


# what is run: docs/store-format.md


def test_the_page_on_the_format_reads_a_store_with_plain_zarr(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = FeatureStore.create("msa-store")
    index = make_index()
    expected = {}
    for view_id, rows in (("v" * 16, range(12)), ("w" * 16, range(5, 19))):
        view = fill(store, index, rows=rows, view_id=view_id)
        reader = store.reader(view)
        expected |= {(view_id, index.ids[row]): reader.read(row) for row in rows}
    (snippet,) = blocks(ROOT / "docs" / "store-format.md", "python")
    found: dict = {}
    exec(compile(snippet, "docs/store-format.md", "exec"), found)
    assert found["states"].keys() == expected.keys()
    for key, states in expected.items():
        np.testing.assert_array_equal(found["states"][key], states)
    assert found["strings"](found["root"][f"index/{index.fingerprint}"], "text") == index.text


def unexplained(words) -> set[str]:
    """Those that docs/store-format.md does not name."""
    page = (ROOT / "docs" / "store-format.md").read_text("utf-8")
    return {word for word in words if f"`{word}`" not in page and f'"{word}"' not in page}


def test_the_page_on_the_format_names_every_array_and_key(tmp_path):
    """Whatever a store holds is a word of the page: a borrowed segment included."""
    store = FeatureStore.create(tmp_path / "store")
    view, other = fill(store, make_index()), make_index(name="other")
    dataset = store.add_index(other)
    assert borrow(store, view.id, dataset, other.digests[Modality.AUDIO], range(20))
    manifest = json.loads(store.manifest.encode())
    entries = [entry for about in manifest["views"].values() for entry in about["segments"]]
    words = {*manifest}.union(*entries, *manifest["datasets"].values(), *manifest["views"].values())
    for path in store.path.rglob("zarr.json"):
        found = json.loads(path.read_text())
        words |= found["attributes"].keys()
        if found["node_type"] == "array" and not path.parent.name.startswith("digest_"):
            words.add(path.parent.name)
    assert "data_of" in words
    assert unexplained(words) == set()


# what is run: docs/adding.md


def examples() -> dict[str, str]:
    """Path inside the repository -> source of every example of docs/adding.md."""
    sources = blocks(ROOT / "docs" / "adding.md", "python")
    return {source.partition("\n")[0].removeprefix("# "): source for source in sources}


EXAMPLES = {Path(path).stem.replace("_", "-") for path in examples()}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The examples in the folders they belong to, for as long as these tests run."""
    added = []
    for path, source in examples().items():
        package = importlib.import_module(".".join(Path(path).parent.parts))
        folder = tmp_path_factory.mktemp("room")
        (folder / Path(path).name).write_text(source, "utf-8")
        package.__path__.append(str(folder))
        added.append((package, folder))
    importlib.invalidate_caches()
    yield
    for package, folder in added:
        package.__path__.remove(str(folder))
        for module in [m for m, loaded in sys.modules.items() if str(folder) in str(getattr(loaded, "__file__", ""))]:
            del sys.modules[module]
            delattr(package, module.rpartition(".")[2])


@pytest.fixture(scope="module")
def notes(tmp_path_factory) -> Path:
    """Six speakers, three moods, two notes each: a pitch and a word for every mood."""
    root, chance = tmp_path_factory.mktemp("corpus") / "notes", np.random.default_rng(0)
    words = {"negative": "awful", "neutral": "the", "positive": "great"}
    for mood, pitch in zip(SENTIMENT.classes, (110, 150, 220), strict=True):
        (root / mood).mkdir(parents=True)
        for speaker in ("ana", "ben", "cem", "dee", "eva", "fay"):
            for number in (1, 2):
                t = np.arange(4000) / 16_000
                tone = np.sin(2 * np.pi * pitch * t) + 0.1 * chance.standard_normal(len(t))
                stem = root / mood / f"{speaker}_{SENTIMENT.classes.index(mood)}{number}"
                with wave.open(f"{stem}.wav", "wb") as file:
                    file.setparams((1, 2, 16_000, 0, "NONE", ""))
                    file.writeframes((8000 * tone).astype("<i2").tobytes())
                stem.with_suffix(".txt").write_text(f"{words[mood]} note {number} of {speaker}")
    return root


def test_an_example_is_listed_as_soon_as_its_file_is_there(installed):
    assert "voice-notes" in catalog.names("dataset")
    assert {"distilroberta.base", "logmel.80"} <= catalog.backbones().keys()
    assert catalog.describe("head")["late"].startswith("Late fusion: a linear classifier per modality")
    assert {Path(path).parent.name for path in examples()} == {"datasets", "backbones", "heads", "exchange"}


def test_the_commands_of_the_page_on_adding_run_as_they_stand(installed, notes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").symlink_to(notes)
    rows = [f"t{i},{('bad', 'good')[i % 2]},{i % 2},{0.1 * i}" for i in range(30)]
    (tmp_path / "talks.csv").write_text("\n".join(["id,label,pitch,energy", *rows]))
    lines = [line for block in blocks(ROOT / "docs" / "adding.md", "sh") for line in block.splitlines()]
    assert {line.partition(" --")[0] for line in lines if line.startswith("msa")} >= {
        "msa extract",
        "msa fuse train",
        "msa cache import vectors talks.csv",
    }
    printed = ""
    for line in sorted(lines, key=lambda line: "import" not in line):  # the import first: training takes the newest
        done = CliRunner().invoke(cli.app, shlex.split(line)[1:])
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
        printed += done.output
    store = FeatureStore.open("msa-store")
    assert {view.name: view.samples for view in store.views("talks")} == {"vectors.vector": 30}
    assert verify(store) == []
    assert {view.name: view.samples for view in store.views("voice-notes")} == {"ngrams.words": 36, "logmel.80": 36}
    about = [store.attributes(view.id) for view in store.views("voice-notes")]
    assert unexplained({key for kept in about for key in [*kept, *kept["identity"], *kept["weights"]]}) == set()
    assert unexplained(store.index("voice-notes").about) == set()
    assert "late" in printed
    assert "probe" in printed


def test_the_dataset_of_the_page_keeps_the_contract(installed, tmp_path):
    from tests.extract.datasets import test_datasets as contract

    contract.test_a_dataset_says_what_it_is_and_where_it_comes_from("voice-notes")
    contract.test_options_are_a_frozen_dataclass_with_defaults("voice-notes")
    contract.test_a_missing_folder_is_an_error_with_home_licence_and_layout("voice-notes", tmp_path)
    contract.test_a_folder_with_something_else_in_it_is_an_error("voice-notes", tmp_path)
    contract.test_a_dataset_file_has_no_module_level_import_of_a_decoder_or_tensor_package("voice-notes")
    contract.test_an_option_value_that_does_not_exist_is_refused_with_those_that_do("voice-notes")


def test_the_backbones_of_the_page_keep_the_contract(installed, tmp_path):
    from msa.extract.presets import spec_of
    from msa.extract.weights import resolve
    from tests.extract.backbones import test_backbones as contract

    loaded = {}
    for called in ("logmel.80", "distilroberta.base"):
        contract.test_a_recipe_states_its_licence_and_source(called)
        family, spec = spec_of(contract._modality(called), called)
        weights = f"hf:{contract.roberta(tmp_path / 'roberta')}" if spec.weights else ""
        spec = replace(spec, weights=weights, dtype="float32")
        loaded[called] = spec, catalog.load("backbone", family).load(spec, resolve(spec), "cpu")
        contract.test_rows_have_the_declared_width_and_dtype_and_are_finite(loaded.get, called)
        contract.test_the_same_bytes_twice(loaded.get, called)
        contract.test_a_clip_does_not_depend_on_its_batch(loaded.get, called)
    assert loaded["logmel.80"][1].encode([np.zeros(16_000, np.float32)])[0].shape == (51, 80)


def test_the_head_of_the_page_keeps_the_contract(installed):
    from tests.fuse.heads import test_heads as contract

    for mode in ("eval", "train"):
        contract.test_padding_never_changes_a_prediction("late", mode)
    for subset in contract.SUBSETS:
        contract.test_any_subset_of_modalities_will_do("late", subset)
    for missing in contract.MISSING.values():
        contract.test_a_missing_modality_is_finite_and_its_values_are_never_read("late", missing)
    for task in (contract.SENTIMENT, contract.RANGE):
        contract.test_a_batch_of_one_works("late", task)
    contract.test_every_parameter_gets_a_gradient("late")
    contract.test_the_order_of_dims_does_not_matter("late")
    contract.test_a_reloaded_head_gives_the_same_numbers("late")
    contract.test_a_prediction_does_not_depend_on_its_batch_mates("late")
    contract.test_64_samples_can_be_learnt_by_heart("late")
    contract.test_regression_gives_one_value_and_learns("late")
    contract.test_every_preset_builds_and_names_only_known_training_values("late")


def test_the_examples_work_as_plug_ins_of_another_package(tmp_path, monkeypatch):
    (points,) = blocks(ROOT / "docs" / "adding.md", "toml")
    package, about = tmp_path / "my_package", tmp_path / "my_package-1.0.dist-info"
    package.mkdir()
    about.mkdir()
    (package / "__init__.py").touch()
    for path, source in examples().items():
        (package / Path(path).name).write_text(source, "utf-8")
    lines = points.replace('[project.entry-points."', "[").replace('"]', "]").replace('"', "")
    (about / "entry_points.txt").write_text(lines)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "voice-notes" in catalog.names("dataset")
    assert "logmel.80" in catalog.backbones()
    assert catalog.describe("head")["late"].startswith("Late fusion")
    assert catalog.load("dataset", "voice-notes").TASK is SENTIMENT
    assert catalog.load("backbone", "logmel").SPECS["80"].modality is Modality.AUDIO
    assert "vectors" in catalog.describe("format")
    table = tmp_path / "talks.csv"
    table.write_text("id,label,pitch\n" + "".join(f"{i},{('bad', 'good')[i % 2]},{i}\n" for i in range(9)))
    done = CliRunner().invoke(
        cli.app, ["cache", "import", "vectors", str(table), "--store", str(tmp_path / "store"), "--json"]
    )
    assert done.exit_code == 0, done.output
    (view,) = FeatureStore.open(tmp_path / "store").views("talks")
    assert (view.name, view.modality, view.samples) == ("vectors.vector", Modality.AUDIO, 9)
    from msa.fuse.train.model import Model

    assert Model.of("late").build({Modality.TEXT: 4}, SENTIMENT).task is SENTIMENT
    for module in [module for module in sys.modules if module.split(".")[0] == "my_package"]:
        del sys.modules[module]
