"""Shapes that comments and docstrings state are those of the running code, in every head and module."""

import ast
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from msa import catalog
from msa.fuse import heads, modules
from msa.fuse.head import Batch, FusionHead, head_class
from msa.types import SENTIMENT, Modality, Task
from tests.fuse.batches import EMOTIONS, random_labels
from tests.fuse.heads import shapes
from tests.fuse.heads.shapes import Tracer, fits, shapes_of, source

TEXT, IMAGE, AUDIO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO
DIMS = {TEXT: 11, IMAGE: 13, AUDIO: 9}  # no two sizes are alike: a wrong one has no other name
STEPS = {TEXT: 6, IMAGE: 5, AUDIO: 8}
VALUES = Task(low=-3.0, high=3.0)
FOLDERS = tuple(str(Path(package.__file__).parent) for package in (heads, modules))
FILES = sorted(path for folder in FOLDERS for path in Path(folder).glob("[a-z]*.py"))
OTHERS: dict[str, list[dict[str, object]]] = {  # settings that run what the preset leaves out
    "almt": [{"lengths": (3, 4, 5), "embed_layers": 2}],
    "cmsta": [
        {"bilinear": "scalar", "tokens": "gated", "global_feature": "mean"},
        {"bilinear": "hadamard", "fusion": "add", "norm": "pre", "global_feature": "all"},
        {"bilinear": "outer_lowrank", "without": "cmsta", "positional": "token"},
        {"without": "tcmfi"},
    ],
    "hcl": [
        {"lengths": (3, 4, 5), "embed_layers": 2, "readout": "cls+selfattn", "axis": "token", "groups": 4},
        {"scope": "running", "weights": "msaf", "without": "collaborative", "classifier": "mlp"},
        {"without": "text_guidance"},
        {"without": "kmeans", "group_sum": "mean"},
    ],
    "mfm": [{"target": "raw"}],
    "misa": [{"encode": "mean"}],
    "mult": [{"kernel": 3, "self_layers": 2}],
}
CASES = [(name, changed) for name in catalog.names("head") for changed in [{}, *OTHERS.get(name, [])]]


def batch_of(task: Task, size: int = 7) -> Batch:
    """Two dialogues and two samples alone; one sample lacks its text."""
    g = torch.Generator().manual_seed(0)
    x = {m: torch.randn(size, STEPS[m], d, generator=g) for m, d in DIMS.items()}
    length = {m: torch.randint(1, STEPS[m] + 1, (size, 1), generator=g) for m in DIMS}
    mask = {m: torch.arange(STEPS[m]) < length[m] for m in DIMS}
    for m in DIMS:
        mask[m][0] = True
    mask[TEXT][1] = False
    group, position = torch.tensor([0, 0, 0, 1, 2, 2, 3]), torch.tensor([0, 1, 2, 0, 1, 0, 0])
    return Batch(x, mask, random_labels(task, size, g), torch.arange(size), group, position)


def traced(name: str, changed: dict[str, object], task: Task, dims: dict[Modality, int] = DIMS) -> Tracer:
    """Build a head, train it for two steps and predict, under the eyes of a tracer."""
    module = catalog.load("head", name)
    config = replace(getattr(module, "PRESETS", {}).get("small", module.Config()), **changed)
    make = head_class(module)
    tracer = Tracer(FOLDERS, config, {"outputs": task.outputs, "M": len(dims)}, make)
    torch.manual_seed(0)
    with tracer:
        head: FusionHead = make(config, dims, task)
        for _ in range(2):
            head.train().step(batch_of(task))
        head.eval()(batch_of(task))
        if hasattr(head, "attention") and name == "hcl" and config.without != "text_guidance" and len(dims) > 1:
            head.attention(batch_of(task))
    return tracer


@pytest.mark.parametrize("name", catalog.names("head"))
def test_shapes_are_as_stated_of_a_lone_modality(name, met):
    tracer = traced(name, {}, SENTIMENT, {AUDIO: DIMS[AUDIO]})
    assert tracer.wrong == []
    met |= tracer.met


@pytest.fixture(scope="module")
def met():
    """What has been compared so far."""
    return set()


@pytest.mark.parametrize(("name", "changed"), CASES, ids=[f"{n} {c}" for n, c in CASES])
def test_shapes_are_as_stated(name, changed, met):
    for task in (SENTIMENT, VALUES, EMOTIONS) if not changed else (SENTIMENT,):
        tracer = traced(name, changed, task)
        assert tracer.wrong == []
        assert any(Path(path).stem == name.replace("-", "_") for path, _ in tracer.met)
        met |= tracer.met


def test_everything_stated_has_been_compared(met):
    """The other cases of this file come before it."""
    if len(met) < 100:
        pytest.skip("run the whole file")
    lost = []
    for path in FILES:
        stated = {each.first for each in source(str(path)).statements.values()}
        lost += [f"{path.name}:{line}" for line in sorted(stated - {line for file, line in met if file == str(path)})]
    assert lost == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_forward_states_its_shapes(path):
    lost = []
    for one in source(str(path)).signatures.values():
        if one.name == "forward":
            lost += [f"{path.name}:{one.line} says nothing of {n}" for n in one.tensors if n not in one.arguments]
            lost += [] if one.result or one.returns else [f"{path.name}:{one.line} says nothing of the result"]
    assert lost == []


def test_most_tensors_have_their_shape_beside_them():
    """A file cannot lose its comments unseen: there are as many as there were, about 20 a file."""
    assert sum(len({s.first for s in source(str(path)).statements.values()}) for path in FILES) >= 400


# the checker itself


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x (B, T, d) under mask (B, T) -> (B, d)", [("B", "T", "d"), ("B", "T"), ("B", "d")]),
        ("softmax(q k^T / sqrt(d_k)) v (Wang et al., 2023)", []),
        ("(B, 1 + T), (B, M K, 2 units)", [("B", "1 + T"), ("B", "M K", "2 units")]),
        ("(T,) of a thing -> ()", [("T",), ()]),
        ("forward() of (B, heads, L or S, d_k)", [("B", "heads", "L or S", "d_k")]),
    ],
)
def test_shapes_are_found_in_prose(text, found):
    assert [dims for _, _, dims in shapes_of(text)] == found


@pytest.mark.parametrize(
    ("shape", "dims", "env", "right"),
    [
        ((2, 3), ("B", "T"), {}, True),
        ((2, 3), ("B", "B"), {}, False),
        ((2, 3), ("B",), {}, False),
        ((4,), ("1 + T",), {"T": 3}, True),
        ((4,), ("1 + T",), {"T": 4}, False),
        ((6,), ("2 T",), {}, True),
        ((7,), ("2 T",), {}, False),
        ((6,), ("M K",), {"M": 3, "K": 2}, True),
        ((6,), ("M K",), {"M": 3, "K": 3}, False),
        ((9,), ("r^2",), {"r": 3}, True),
        ((5, 2, 3), ("...", "d"), {"d": 3}, True),
        ((3,), ("L or S",), {"L": 2, "S": 3}, True),
        ((4,), ("L or S",), {"L": 2, "S": 3}, False),
    ],
)
def test_dims_fit_numbers(shape, dims, env, right):
    assert fits(shape, dims, dict(env)) is right


def test_a_wrong_comment_is_noticed_wherever_it_stands(tmp_path):
    text = """
import torch
def right(x, k):
    a = x.mean(1)  # (B, d)
    return {"a": a, "b": a}  # each (B, d)
def wrong(x):
    a = x.mean(2)  # (B, d)
    a, b = x[:, 0], x  # (B, d), (B, d)
    parts = []
    parts.append(x)  # (B, d)
    return a  # (d, B)
def signed(x: torch.Tensor) -> torch.Tensor:
    '''x (B, T) -> (B, T, 2).'''
    return x
"""
    path = tmp_path / "made.py"
    path.write_text(text)
    names: dict = {}
    exec(compile(text, str(path), "exec"), names)
    with Tracer((str(tmp_path),)) as tracer:
        names["right"](torch.zeros(2, 3, 4), 1)
        assert tracer.wrong == []
        names["wrong"](torch.zeros(2, 3, 4))
        names["signed"](torch.zeros(2, 3, 4))
    assert [int(line.split(":")[1].split()[0]) for line in tracer.wrong] == [8, 8, 10, 11, 12]
    assert len(ast.parse(text).body) == 4 and all(a <= b for a, b in pairwise(sorted(source(str(path)).statements)))
    assert shapes.source(str(path)).signatures[12].result == (("B", "T", "2"),)
