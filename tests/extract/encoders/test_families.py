"""A dozen families encode in batches as they do alone; the grid of a picture by the shape of a network's output.

docs/families.md holds the same trial of all families.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from msa.errors import BackboneError
from msa.extract.backbones import timm
from msa.extract.encoders.image import OPTIONS, places
from msa.types import Modality
from tests.extract.encoders import family_trials
from tests.extract.encoders.family_trials import Row


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tried(kind: str, family: str, folder: Path, network: str = "") -> Row:
    row = Row(kind, family, network)
    {"text": family_trials.text, "audio": family_trials.audio, "image": family_trials.picture}[kind](row, folder)
    return row


@pytest.mark.parametrize(
    ("kind", "family", "end"),
    [
        ("text", "bert", "packed"),
        ("text", "electra", "packed"),
        ("text", "esm", "padded"),  # its masks are counted over a row
        ("text", "deberta-v2", "padded"),  # positions relative to each other
        ("text", "llama", "padded"),  # causal
        ("text", "mt5", "padded"),
        ("text", "fnet", "one by one"),  # a Fourier transform over a row
        ("text", "canine", "one by one"),  # and a text may be too short
        ("audio", "hubert", "padded"),
        ("audio", "sew", "one by one"),  # pools frames by pairs
    ],
)
def test_what_a_family_gives_does_not_depend_on_the_batch(kind, family, end, tmp_path):
    row = tried(kind, family, tmp_path)
    assert (row.end, row.why) == (end, "")
    assert row.distance <= family_trials.TOLERANCE
    assert row.rows > 0


@pytest.mark.parametrize(
    ("kind", "family", "why"),
    [
        ("text", "bart", "encoder-decoder"),
        ("text", "bros", "cannot encode"),  # wants boxes beside the tokens
        ("audio", "audio-spectrogram-transformer", "does not read a waveform"),
    ],
)
def test_a_family_that_cannot_be_read_is_refused_with_the_reason(kind, family, why, tmp_path):
    with pytest.raises(BackboneError, match=why):
        tried(kind, family, tmp_path)


@pytest.mark.parametrize(("network", "rows"), [("test_vit", 100), ("test_byobnet", 25), ("test_convnext", 25)])
def test_a_picture_gives_a_row_for_each_place(network, rows, tmp_path):
    row = tried("image", network, tmp_path, network)
    assert (row.end, row.rows) == ("batched", rows)


def test_a_fault_is_a_row_and_ends_no_run(monkeypatch):
    def broken(row: Row, folder: Path) -> None:
        raise KeyError("x")

    monkeypatch.setattr(family_trials, "text", broken)
    row = family_trials.one(Row("text", "bert"))
    assert (row.end, row.why) == ("fault", "fault: KeyError: 'x'")


# the grid

SQUARE = (224, 224)


def model(**attributes: object) -> SimpleNamespace:
    return SimpleNamespace(**attributes)


def numbered(tokens: int) -> torch.Tensor:
    return torch.arange(tokens).float().view(1, tokens, 1)


@pytest.mark.parametrize(
    ("tokens", "network", "first"),
    [
        (196, model(), 0),
        (196, model(num_prefix_tokens=1), 0),  # it keeps its class token to itself
        (197, model(num_prefix_tokens=1), 1),
        (201, model(num_prefix_tokens=5), 5),
        (197, model(cls_token=torch.zeros(1, 1, 8)), 1),  # VOLO tells no number
        (198, model(cls_token=torch.zeros(1, 1, 8), dist_token=torch.zeros(1, 1, 8)), 2),
        (198, model(cls_token=torch.zeros(1, 2, 8)), 2),
        (50, model(cls_token=torch.zeros(1, 1, 8)), 1),
    ],
)
def test_tokens_of_no_place_are_left_out(tokens, network, first):
    assert places(numbered(tokens), network, SQUARE)[0, :, 0].tolist() == list(range(first, tokens))


@pytest.mark.parametrize(
    ("size", "tokens", "fits"), [((224, 112), 98, True), ((112, 224), 98, True), (SQUARE, 98, False)]
)
def test_a_grid_has_the_proportions_of_the_picture(size, tokens, fits):
    if fits:
        assert places(numbered(tokens), model(), size).shape[1] == tokens
    else:
        with pytest.raises(BackboneError, match="no grid over 224 x 224 px"):
            places(numbered(tokens), model(), size)


@pytest.mark.parametrize(
    ("features", "network", "why"),
    [
        (numbered(1), model(cls_token=torch.zeros(1, 1, 8)), "1 tokens, 1 of which"),  # PiT
        (numbered(2), model(num_prefix_tokens=2), "2 tokens, 2 of which"),  # PiT, distilled
        (numbered(200), model(num_prefix_tokens=1), "200 tokens"),
        (torch.zeros(1, 8), model(), r"shape \(1, 8\)"),
        (torch.zeros(1, 8, 7, 7, 2), model(), "instead of a grid"),
        ([torch.zeros(1, 401, 8), torch.zeros(1, 197, 8)], model(), r"\(1, 401, 8\), \(1, 197, 8\)"),  # CrossViT
        ({"patches": 3}, model(), "a dict"),
        (None, model(), "a NoneType"),
    ],
)
def test_what_is_no_single_grid_is_refused(features, network, why):
    with pytest.raises(BackboneError, match=why):
        places(features, network, SQUARE)


@pytest.mark.parametrize(
    ("shape", "network", "last"),
    [
        ((1, 8, 7, 7), model(num_features=8), False),
        ((1, 7, 7, 8), model(num_features=8), True),  # whether the network says so or not
        ((1, 7, 7, 8), model(num_features=8, output_fmt="NCHW"), True),
        ((1, 7, 7, 7), model(num_features=7, output_fmt="NHWC"), True),  # cannot be told by shape
        ((1, 7, 7, 8), model(output_fmt="NHWC"), True),
        ((1, 8, 7, 7), model(num_features=1280), False),  # a wider layer follows
    ],
)
def test_which_axis_holds_the_channels_is_told_by_the_shape(shape, network, last):
    features = torch.arange(float(torch.tensor(shape).prod())).view(shape)
    expected = features.reshape(1, 49, -1) if last else features.reshape(1, -1, 49).transpose(1, 2)
    assert torch.equal(places(features, network, SQUARE), expected)


def test_an_architecture_whose_rows_changed_makes_another_view_and_no_other_does():
    """VOLO had its class token among the places: a store must not mix both."""
    specs = {
        name: timm.spec(Modality.IMAGE, f"timm:{name}").options for name in ("volo_d1_224", "resnet18", "vit_tiny")
    }
    assert specs == {"volo_d1_224": {"tokens": "grid", "version": 2}, "resnet18": OPTIONS, "vit_tiny": OPTIONS}
