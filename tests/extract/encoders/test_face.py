"""Faces: which one is followed, what is stored and counted, the process of its own, OpenFace's tables, and py-feat."""

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from msa import catalog
from msa.errors import BackboneError, UnknownNameError
from msa.extract import job, presets
from msa.extract.backbone import Weights
from msa.extract.backbones import openface
from msa.extract.encoders import face
from msa.extract.encoders.face import largest, linked, overlap, regular
from msa.extract.encoders.process import ProcessError, ProcessObject
from msa.extract.media.decode import Columns, Frames, MediaError, read_columns
from msa.extract.weights import resolve
from msa.extract.work.forward import Failure, encode, hidden_states
from msa.types import Modality, Raw
from tests.extract.faces import BROKEN, COLUMNS, CRASH, LOUD, needs_pyfeat, painted, write_weights

FAKE = "tests.extract.faces:Fake"
LEFT, RIGHT, SMALL = (5, 10, 25, 40), (45, 10, 75, 50), (2, 2, 8, 8)  # boxes; the right one is the largest


def frames(*boxes, mouths=None, fps: float = 5.0) -> Frames:
    pixels = painted(*boxes, mouths=mouths)
    return Frames(pixels, np.arange(len(pixels)) / fps)


def boxes(*found) -> list[np.ndarray]:
    return [np.array(of_frame, np.float64).reshape(-1, 4) for of_frame in found]


# which face is followed


def test_overlap_is_intersection_over_union():
    some, others = np.array([[0, 0, 4, 4], [9, 9, 9, 9]]), np.array([[2, 0, 6, 4], [0, 0, 4, 4], [8, 8, 9, 9]])
    np.testing.assert_allclose(overlap(some, others), [[8 / 24, 1, 0], [0, 0, 0]])


def test_a_moving_face_is_one_track_and_so_is_one_that_looks_away():
    moving = boxes([(0, 0, 10, 10)], [(3, 0, 13, 10)], [], [], [(6, 0, 16, 10)])
    assert linked(moving).tolist() == [[0, 0, -1, -1, 0]]


def test_boxes_are_told_apart_by_overlap_not_by_their_order():
    crossing = boxes([LEFT, RIGHT], [RIGHT, LEFT], [SMALL, RIGHT, LEFT])
    assert linked(crossing).tolist() == [[0, 1, 2], [1, 0, 1], [-1, -1, 0]]


def test_each_box_belongs_to_one_track():
    close = boxes([(0, 0, 10, 10), (2, 0, 12, 10)], [(1, 0, 11, 10)], [(0, 0, 10, 10), (2, 0, 12, 10)])
    tracks = linked(close)
    for t in range(3):
        chosen = [i for i in tracks[:, t] if i >= 0]
        assert sorted(chosen) == list(range(len(close[t])))


def test_nothing_is_nothing():
    assert linked(boxes([], [])).shape == (0, 2)


def test_the_largest_is_so_over_the_whole_clip_and_stays_when_a_larger_one_passes():
    passing = boxes([LEFT], [LEFT, RIGHT], [LEFT], [(*RIGHT[:2], 60, 40), LEFT], [LEFT])
    tracks = linked(passing)
    assert tracks[largest(passing, tracks)].tolist() == [0, 0, 0, 1, 0]


def test_who_is_seen_now_and_then_cannot_be_the_one_who_speaks():
    tracks = np.array([[0, 0, 0, 0, 0, 0], [1, 1, 1, -1, -1, -1], [-1, -1, -1, -1, 1, 1]])
    assert regular(tracks).tolist() == [True, True, False]
    assert not regular(np.array([[0, 0]])).any()


# what is stored, with a detector that stands in for py-feat in a real process


@pytest.fixture(scope="module")
def encoder():
    """Largest face, float32; one process for all tests of this module that do it no harm."""
    made = stand_in("largest")
    yield made
    made.close()


def stand_in(track: str) -> face.FaceEncoder:
    columns = (*face.FIRST, *COLUMNS)
    return face.FaceEncoder(ProcessObject(FAKE), track, "float32", {}, columns, len(columns))


def test_rows_are_the_frames_of_the_followed_face_and_never_zeros_for_the_others(encoder):
    encoder.counts()
    clip = frames({9: RIGHT}, {}, {9: RIGHT, 3: LEFT}, {3: LEFT}, {9: (45, 12, 75, 52)})
    states = encoder.encode([clip])[0]
    assert states.dtype == np.float32
    np.testing.assert_allclose(states[:, 0], [0, 0.4, 0.8])  # s; frames 1 and 3 are gaps
    np.testing.assert_allclose(states[:, 1], 9 / 255, rtol=1e-6)
    np.testing.assert_allclose(states[0, 2:6], [60 / 80, 30 / 60, 30 / 80, 40 / 60])  # middle and size
    np.testing.assert_allclose(states[2, 3], 32 / 60)
    np.testing.assert_allclose(states[:, 6], 9 / 255, rtol=1e-6)  # described from that face's pixels
    assert encoder.counts() == {
        "frames": 5,
        "frames without a face": 1,
        "frames with other faces only": 1,
        "clips with several faces": 1,
    }
    assert encoder.counts() == {}


def test_a_clip_does_not_depend_on_those_beside_it(encoder):
    videos = [frames({9: RIGHT}, {9: RIGHT}), frames({3: LEFT}), frames({5: LEFT, 9: RIGHT}, {5: LEFT}, {5: LEFT})]
    tables = [table({"success": [1, 0, 1]}), table({"face_id": [0, 1, 1]}), table({"AU01_r": [4]})]
    for backbone, clips in ((encoder, videos), (reader(), tables)):
        alone = [backbone.encode([clip])[0] for clip in clips]
        for states, expected in zip(backbone.encode(clips), alone, strict=True):
            np.testing.assert_array_equal(states, expected)
            assert states.shape[1] == backbone.dim == len(backbone.columns)
            assert states.dtype == np.float32
        assert backbone.encode([]) == []


def test_shares_of_the_frame_do_not_depend_on_its_size(encoder):
    small = frames({9: (10, 20, 30, 40)})
    large = Frames(small.pixels.repeat(2, axis=1).repeat(2, axis=2), small.times)
    np.testing.assert_array_equal(encoder.encode([small])[0], encoder.encode([large])[0])


def test_a_clip_without_a_face_fails_alone_and_is_counted(encoder):
    encoder.counts()
    assert presets.spec_of(Modality.FACE, "pyfeat")[1].batch == 1  # so that no clip is counted twice
    encoded = encode(encoder, [4], [frames({}, {})])[4]
    assert encoded.states == Failure("encode", "no face in 2 frames")
    assert encoded.counts == {"frames": 2, "frames without a face": 2, "clips without a face": 1}
    found = hidden_states(encoder, [4, 5], [frames({}, {}), frames({9: LEFT})])
    assert isinstance(found[4], Failure)
    assert isinstance(found[5], np.ndarray)


def test_a_table_is_no_video(encoder):
    found = hidden_states(encoder, [0], [Columns(("frame",), np.ones((1, 1)))])
    assert found[0] == Failure("encode", "a table, not a video: --face openface.csv reads what OpenFace wrote")


def test_the_speaking_face_is_the_one_whose_mouth_moves_not_the_largest():
    both = [{3: LEFT, 9: RIGHT}] * 4
    mouths = {3: [0, 200, 0, 200], 9: [100, 100, 110, 100]}
    encoder = stand_in("speaking")
    try:
        states = encoder.encode([frames(*both, mouths=mouths)])[0]
        np.testing.assert_allclose(states[:, 6], 3 / 255, rtol=1e-6)
        np.testing.assert_allclose(states[:, -1], np.array(mouths[3]) / 255, rtol=1e-6)
        brief = encoder.encode([frames(*both[:2], mouths=mouths)])[0]
        np.testing.assert_allclose(brief[:, 6], 9 / 255, rtol=1e-6)  # two frames show no speech: the largest
        passing = [{9: (0, 0, 80, 60), 3: LEFT}, {3: LEFT}, {3: LEFT}]
        steady = encoder.encode([frames(*passing)])[0]
        np.testing.assert_allclose(steady[:, 6], [3 / 255] * 3, rtol=1e-6)  # a larger one is seen too briefly to speak
    finally:
        encoder.close()


# the process


@pytest.fixture
def process():
    made = ProcessObject(FAKE)
    yield made
    made.close()


def test_the_parent_stays_as_it_was(process):
    before = torch.is_grad_enabled(), torch.get_num_threads(), dict(os.environ)
    process.ask("find", painted({3: LEFT}))
    assert (torch.is_grad_enabled(), torch.get_num_threads(), dict(os.environ)) == before
    assert "feat" not in sys.modules


def test_what_the_other_process_prints_reaches_neither_the_terminal_nor_the_answers(process, capfd):
    assert len(process.ask("find", painted({LOUD: LEFT}))[0]) == 1
    process.close()
    assert capfd.readouterr() == ("", "")


def test_an_exception_there_is_an_error_here_and_the_process_lives_on(process):
    pid = process.ask("pid")
    with pytest.raises(ProcessError, match=r"^ValueError: this clip is too much$") as caught:
        process.ask("find", painted({BROKEN: LEFT}))
    assert caught.value.kind == "ValueError"
    assert process.ask("pid") == pid


def test_a_crash_is_the_error_of_one_clip_and_the_next_one_has_a_new_process(process):
    pid = process.ask("pid")
    with pytest.raises(ProcessError, match=r"was killed by SIGKILL; its last words: a last cry") as caught:
        process.ask("find", painted({CRASH: LEFT}))
    assert caught.value.kind == ""
    assert process.ask("pid") != pid


def test_a_crash_becomes_the_record_of_its_clip(encoder):
    found = hidden_states(encoder, [1, 2], [frames({CRASH: LEFT}), frames({9: LEFT})])
    assert isinstance(found[1], Failure)
    assert found[1].stage == "encode"
    assert "SIGKILL" in found[1].reason
    assert len(found[2]) == 1


def test_an_object_that_cannot_be_made_is_told_each_time_it_is_asked():
    process = ProcessObject("tests.extract.faces:Nobody")
    for _ in range(2):
        with pytest.raises(ProcessError, match=r"^AttributeError: .*Nobody") as caught:
            process.ask("columns")
        assert caught.value.starting


def test_a_detector_that_does_not_start_again_ends_the_run_and_not_clip_after_clip():
    encoder = stand_in("largest")
    encoder.process.ask("pid")
    encoder.process.factory = "tests.extract.faces:Nobody"
    assert isinstance(hidden_states(encoder, [0], [frames({CRASH: LEFT})])[0], Failure)
    with pytest.raises(BackboneError, match="py-feat does not start: AttributeError"):
        hidden_states(encoder, [1], [frames({9: LEFT})])


def test_close_ends_the_process_and_may_be_called_twice(process):
    pid = process.ask("pid")
    process.close()
    process.close()
    assert not psutil.pid_exists(pid)


def test_a_forgotten_process_ends_too():
    process = ProcessObject(FAKE)
    pid = process.ask("pid")
    del process
    assert not psutil.pid_exists(pid)


def test_half_a_question_is_the_end():
    """What a parent leaves that is killed while it writes."""
    words = [sys.executable, "-m", "msa.extract.encoders.process"]
    question = pickle.dumps(("", (FAKE, (np.zeros(1000),))))
    assert subprocess.run(words, input=question[:-100], timeout=60, capture_output=True).stdout == b""


PARENT = f"""
from msa.extract.encoders.process import ProcessObject
process = ProcessObject({FAKE!r})
try:
    print(process.ask("pid"), flush=True)
    process.ask("wait", 600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_the_process_ends_with_its_parent_in_the_midst_of_a_question(end):
    root = Path(__file__).resolve().parents[3]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=-1, stderr=-1, text=True, start_new_session=True, cwd=root
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    os.killpg(parent.pid, end) if end == signal.SIGINT else parent.kill()  # a terminal interrupts the whole group
    out, err = parent.communicate(timeout=60)
    assert err == ""
    assert out == ("interrupted\n" if end == signal.SIGINT else "")
    for _ in range(200):
        if not child.is_running() or child.status() == psutil.STATUS_ZOMBIE:  # orphans are not reaped in a container
            break
        time.sleep(0.05)
    else:
        pytest.fail(f"process {child.pid} outlived its parent")


# loading


@pytest.fixture
def two_files(tmp_path) -> Path:
    """Names that are links to contents, as in the hub's cache."""
    for name in ("face_multitask_v28.safetensors", "model.safetensors"):
        (tmp_path / f"blob-{name[:4]}").write_bytes(name.encode())
        (tmp_path / name).symlink_to(f"blob-{name[:4]}")
    return tmp_path


@pytest.fixture
def installed(monkeypatch):
    """As if py-feat were there, with the stand-in for its worker."""
    monkeypatch.setattr(face, "require_pyfeat", lambda: None)
    monkeypatch.setattr(face, "library_versions", lambda *names: dict.fromkeys(names, "1"))
    monkeypatch.setattr(face, "WORKER", FAKE)


def test_a_backbone_is_loaded_from_a_folder_by_its_name(two_files, installed):
    family, spec = presets.spec_of(Modality.FACE, f"pyfeat:{two_files}", ["fps=2", "track=speaking"])
    assert spec.options == {"fps": 2.0, "side": 640, "track": "speaking", "confidence": 0.5}
    backbone = catalog.load("backbone", family).load(spec, resolve(spec), "cpu")
    try:
        assert backbone.columns == (*face.FIRST, *COLUMNS)
        assert backbone.dim == len(backbone.columns)
        assert backbone.process.args[:4] == (
            str(two_files / "face_multitask_v28.safetensors"),
            str(two_files / "model.safetensors"),
            "cpu",
            0.5,
        )
        assert backbone.encode([frames({9: LEFT})])[0].shape == (1, backbone.dim)
    finally:
        backbone.close()


def test_an_unknown_way_of_tracking_is_refused(two_files, installed):
    family, spec = presets.spec_of(Modality.FACE, f"pyfeat:{two_files}", ["track=smallest"])
    with pytest.raises(UnknownNameError, match="smallest"):
        catalog.load("backbone", family).load(spec, resolve(spec), "cpu")


@pytest.mark.parametrize("module", ["feat", "torchcodec"])
def test_without_the_extra_the_error_names_the_command_before_anything_is_fetched(monkeypatch, module):
    real = find_spec
    monkeypatch.setattr(face, "find_spec", lambda name: None if name == module else real("json"))
    with pytest.raises(BackboneError, match=f"no module '{module}'") as caught:
        resolve(presets.spec_of(Modality.FACE, "pyfeat")[1])
    assert caught.value.fix.startswith("pip install 'py-feat>=2.1,<3' 'torchcodec>=0.10'")


@pytest.mark.parametrize(
    ("kind", "text", "fix"),
    [
        ("RuntimeError", "Could not load libtorchcodec. Likely causes:", "install FFmpeg"),
        (
            "ModuleNotFoundError",
            "No module named 'xgboost'",
            "pip install --upgrade 'py-feat>=2.1,<3'",
        ),
        ("SafetensorError", "header too large", "check that"),
        ("", "the process was killed by SIGKILL; its last words: nothing", "check that"),
    ],
    ids=("FFmpeg", "dependency", "weights", "crash"),
)
def test_why_pyfeat_does_not_start_is_told_with_the_way_out(two_files, installed, monkeypatch, kind, text, fix):
    def fail(*_: object) -> None:
        raise ProcessError(text, kind, starting=True)

    monkeypatch.setattr(ProcessObject, "ask", fail)
    _, spec = presets.spec_of(Modality.FACE, f"pyfeat:{two_files}")
    with pytest.raises(BackboneError, match=text[:20]) as caught:
        catalog.load("backbone", "pyfeat").load(spec, resolve(spec), "cpu")
    assert caught.value.fix.startswith(fix)


def test_pyfeat_reads_faces_alone():
    with pytest.raises(BackboneError, match="py-feat reads faces, not text"):
        presets.spec_of(Modality.TEXT, "pyfeat:folder")


def test_faces_have_a_backbone_in_one_preset_and_are_left_out_of_the_other():
    assert presets.spec_of(Modality.FACE, presets.preset("paper")[Modality.FACE])[0] == "pyfeat"
    assert Modality.FACE not in presets.preset("classic")
    job.check(job.Job("table", None, "classic", {Modality.FACE: job.SKIP}))
    job.check(job.Job("table", None, "paper"))


# OpenFace's tables


def table(values: dict[str, list[float]], names: tuple[str, ...] = openface.SETS["compact"]) -> Columns:
    """What OpenFace would have written: `values`, and 0, 1, 2, ... in every other column."""
    length = len(next(iter(values.values())))
    defaults = {"timestamp": np.arange(length) / 5, "confidence": np.ones(length), "success": np.ones(length)}
    filled = {name: np.full(length, float(i)) for i, name in enumerate(names)} | defaults | values
    return Columns(tuple(filled), np.column_stack(list(filled.values())).astype(np.float64))


def reader(**options) -> openface.OpenFace:
    spec = openface.SPECS["csv"]
    return openface.load(replace(spec, options={**spec.options, **options}), Weights(None, None, ""), "cpu")


def test_frames_without_success_or_confidence_have_no_row_and_are_counted():
    clip = table({"success": [1, 0, 1, 1], "confidence": [0.9, 0.1, 0.4, 0.8], "AU12_r": [1, 2, 3, 4]})
    backbone = reader(confidence=0.5)
    states = backbone.encode([clip])[0]
    np.testing.assert_allclose(states[:, 0], [0, 0.6], rtol=1e-6)
    np.testing.assert_allclose(states[:, backbone.columns.index("AU12_r")], [1, 4])
    np.testing.assert_allclose(states[:, 2:8], np.tile(np.arange(6.0), (2, 1)))  # gaze_0_x is the first of its set
    assert backbone.counts()["frames without a face"] == 1
    assert len(reader().encode([clip])[0]) == 3


def test_of_several_faces_the_one_seen_most_is_followed():
    clip = table({"face_id": [0, 1, 0, 1, 1], "timestamp": [0, 0, 0.2, 0.4, 0.6], "AU01_r": [1, 2, 3, 4, 5]})
    backbone = reader()
    states = backbone.encode([clip])[0]
    assert states[:, backbone.columns.index("AU01_r")].tolist() == [2, 4, 5]
    assert backbone.counts() == {"frames": 4, "frames with other faces only": 1, "clips with several faces": 1}


def test_columns_are_found_by_name_wherever_they_stand():
    clip = table({"AU01_r": [1.5, 2.5]})
    order = np.random.default_rng(0).permutation(len(clip.names))
    shuffled = Columns(tuple(f" {clip.names[i]}" for i in order), clip.values[:, order])
    np.testing.assert_array_equal(reader().encode([clip])[0], reader().encode([shuffled])[0])


def test_all_is_the_709_columns_of_version_2():
    names = openface.SETS["all"]
    assert len(names) == len(set(names)) == 709
    assert set(openface.SETS["compact"]) < set(names)
    backbone = reader(set="all")
    assert backbone.encode([table({"face_id": [0, 0]}, names)])[0].shape == (2, 711)
    assert backbone.dim == len(backbone.columns) == 711


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (table({"success": [0, 0]}), "no face in 2 frames"),
        (Columns(("frame", "timestamp"), np.zeros((2, 2))), "no column confidence and 48 more in this table"),
        (frames({9: LEFT}), "a video, not a table of OpenFace's: --face pyfeat reads videos"),
    ],
)
def test_a_table_that_gives_no_rows_says_why(clip, reason):
    with pytest.raises(MediaError) as caught:
        reader().encode([clip])
    assert str(caught.value) == reason


def test_a_choice_of_columns_that_does_not_exist_is_refused():
    with pytest.raises(UnknownNameError, match="value of set"):
        reader(set="some")


@pytest.mark.real
def test_a_table_that_openface_wrote(shared):
    path = shared / "data" / "faces" / "OpenFace_Test.csv"
    if not path.exists():
        pytest.skip(f"no {path}")
    backbone = reader()
    clip = read_columns(Raw(path))
    states = backbone.encode([clip])[0]
    assert states.shape == (100, 49)
    row = dict(zip((name.strip() for name in path.read_text().split("\n")[0].split(",")), clip.values[7], strict=True))
    told = dict(zip(backbone.columns, states[7].tolist(), strict=True))
    assert told.pop("time_s") == pytest.approx(row["timestamp"])
    assert told == pytest.approx({name: row[name] for name in told}, rel=1e-6)
    with pytest.raises(MediaError, match="no column gaze_angle_x and 281 more"):  # it is older than version 2
        reader(set="all").encode([clip])


# py-feat itself, with random weights of its own shapes


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory) -> Path:
    """Both networks, the finder at its real size: about 110 MB. Made elsewhere, since `import feat` leaves traces."""
    return write_weights(tmp_path_factory.mktemp("pyfeat"), scene())


def scene() -> np.ndarray:
    """Four frames of 96 x 128 px in which something moves, uint8."""
    noise = np.random.default_rng(0).integers(0, 120, (96, 160, 3), dtype=np.uint8)
    return np.stack([noise[:, t : t + 128] for t in range(4)])


@pytest.fixture(scope="module")
def pyfeat(random_weights):
    family, spec = presets.spec_of(Modality.FACE, f"pyfeat:{random_weights}")
    backbone = catalog.load("backbone", family).load(spec, resolve(spec), "cpu")
    yield backbone
    backbone.close()


@pytest.mark.slow
@needs_pyfeat
def test_pyfeat_gives_finite_rows_twice_the_same(pyfeat):
    clip = Frames(scene(), np.arange(4) / 5)
    states = pyfeat.encode([clip])[0]
    np.testing.assert_array_equal(pyfeat.encode([clip])[0], states)
    assert pyfeat.dim == len(set(pyfeat.columns)) == 6 + 20 + 6 + 2 + 136 + 7 + 2
    assert states.shape[1] == pyfeat.dim
    assert 0 < len(states) <= 4


@pytest.mark.slow
@needs_pyfeat
def test_columns_are_what_pyfeats_own_detection_tells(pyfeat, random_weights):
    told = np.load(random_weights / "told.npz")
    found = pyfeat.process.ask("find", scene())
    faces = [(t, box[:4]) for t, of_frame in enumerate(found) for box in of_frame]
    assert len(faces) > 4
    described = dict(zip(pyfeat.columns[6:], pyfeat.process.ask("describe", faces).T, strict=True))
    np.testing.assert_array_equal([t for t, _ in faces], told["frame"])
    box = np.array([box for _, box in faces])
    middle, side = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]).max(axis=1)
    same = {"AU01": "AU01", "AU43": "AU43", "happy": "Happy", "anger": "Anger", "pose_pitch": "Pitch", "pose_z": "Z"}
    same |= dict.fromkeys(("gaze_pitch", "gaze_yaw", "valence", "arousal"))
    for mine, theirs in same.items():
        np.testing.assert_allclose(described[mine], told[theirs or mine], rtol=1e-4, atol=1e-5, err_msg=mine)
    for i in (0, 30, 62, 67):
        x, y = (described[f"{axis}_{i}"] * side + middle[:, k] for k, axis in enumerate("xy"))
        np.testing.assert_allclose([x, y], [told[f"x_{i}"], told[f"y_{i}"]], atol=1e-2)  # pixels


@pytest.mark.slow
@needs_pyfeat
def test_frames_are_read_together_as_they_are_one_by_one(pyfeat):
    """A CPU takes them one by one, a GPU sixteen at once."""
    alone = pyfeat.process.ask("find", scene())
    faces = [(t, box[:4]) for t, of_frame in enumerate(alone) for box in of_frame]
    one_by_one = pyfeat.process.ask("describe", faces)
    pyfeat.process.ask("__setattr__", "together", 3)
    try:
        for found, expected in zip(pyfeat.process.ask("find", scene()), alone, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(pyfeat.process.ask("describe", faces), one_by_one, rtol=1e-4, atol=1e-5)
    finally:
        pyfeat.process.ask("__setattr__", "together", 1)
