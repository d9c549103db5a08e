"""Media that lie: nothing but the file that was named is read, and memory and time follow what is really there."""

import io
import os
import socket
import struct
import threading
import time
import tracemalloc
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from msa.cache.format import fingerprint
from msa.extract.media import container
from msa.extract.media import decode as media
from msa.extract.media.decode import FRAMES, Bounds, MediaError, clip, clips
from msa.types import Modality, Raw

DECODED = (Modality.IMAGE, Modality.AUDIO, Modality.FACE)


def reason(modality, raw, bounds=media.BOUNDS) -> str:
    with pytest.raises(MediaError) as caught:
        clip(modality, raw, bounds=bounds)
    return str(caught.value)


def named(folder, name, data) -> Raw:
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return Raw(path=folder / name)


@pytest.fixture
def secret(tmp_path):
    """A file that no other may lead to, and a server that notes who asks."""
    soundfile.write(tmp_path / "secret.wav", 0.5 * np.sin(np.arange(16_000) / 5), 16_000)
    server = socket.create_server(("127.0.0.1", 0))
    asked = []

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            asked.append(connection)
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield tmp_path / "secret.wav", server.getsockname()[1], asked
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{url}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet '
    'mimeType="audio/mp4"><Representation id="1" bandwidth="1"><BaseURL>{url}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "rtsp": "rtsptext\nrtsp://127.0.0.1:{port}/\n",
    "playlist": "[playlist]\nFile1={url}\n",
    "m3u": "{url}\n",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>',
    "postscript": "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(%pipe%touch {path}.ran) (w) file closefile\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("name", ["f.mp4", "f.wav", "f.m3u8", "f.ffconcat", "f.mpd", "f.sdp", "f.jpg", "f%03d.png"])
def test_a_file_that_names_others_leads_nowhere(tmp_path, secret, kind, name):
    path, port, asked = secret
    for url in (str(path), path.name, f"file://{path}", f"concat:{path}|{path}", f"http://127.0.0.1:{port}/x.wav"):
        raw = named(tmp_path, name, PLAYLISTS[kind].format(url=url, port=port, path=path))
        for modality in DECODED:
            assert reason(modality, raw).startswith(("not ", "no "))
    assert asked == []
    assert {found.name for found in tmp_path.iterdir()} == {name, "secret.wav"}


def test_a_path_is_a_file_and_no_address(tmp_path, secret):
    path, port, asked = secret
    for text in (f"concat:{path}", f"http://127.0.0.1:{port}/a.wav", f"subfile,,start,0,end,0,,:{path}", "pipe:0"):
        for modality in DECODED:
            assert reason(modality, Raw(path=type(path)(text))) == "missing file"
    assert asked == []


@pytest.mark.parametrize("modality", DECODED)
def test_what_is_no_regular_file_is_a_reason_at_once(tmp_path, modality):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "to_pipe.wav").symlink_to(tmp_path / "pipe.wav")
    (tmp_path / "to_zero.wav").symlink_to("/dev/zero")
    (tmp_path / "nowhere.wav").symlink_to(tmp_path / "none")
    (tmp_path / "round.wav").symlink_to(tmp_path / "round.wav")
    began = time.monotonic()
    for name, told in (
        ("pipe.wav", "no file that can be read: a pipe, not a regular file"),
        ("to_pipe.wav", "no file that can be read: a pipe, not a regular file"),
        ("to_zero.wav", "no file that can be read: a device, not a regular file"),
        (".", "no file that can be read: a folder, not a regular file"),
        ("nowhere.wav", "missing file"),
        ("round.wav", "no file that can be read: Too many levels of symbolic links"),
        ("x" * 300, "no file that can be read: File name too long"),
        ("a\0b", "missing file"),
        ("round.wav/x", "no file that can be read: Too many levels of symbolic links"),
    ):
        assert reason(modality, Raw(path=tmp_path / name)) == told
        if name.endswith("pipe.wav"):
            with pytest.raises(OSError, match="a pipe, not a regular file"):
                fingerprint.of_file(tmp_path / name)
    assert time.monotonic() - began < 5


def test_a_link_to_a_file_is_that_file_and_a_name_may_be_no_text(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.ones(16_000) / 2, 16_000)
    (tmp_path / "b.wav").symlink_to(tmp_path / "a.wav")
    odd = type(tmp_path)(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav"))
    odd.write_bytes((tmp_path / "a.wav").read_bytes())
    for path in (tmp_path / "b.wav", odd):
        assert len(clip(Modality.AUDIO, Raw(path=path))) == 16_000
        assert reason(Modality.FACE, Raw(path=path)) == "no picture"


# time stamps


def matroska(path, times, codec="mjpeg", size=(64, 64)) -> Raw:
    """A few hundred bytes a frame; frame n is n * 20 steps bright and begins at times[n] s."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for n, at in enumerate(times):
            pixels = np.full((size[1], size[0], 3), n * 20 % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = round(at * 1000), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return Raw(path=path)


@pytest.mark.parametrize("far", [40.0, 1e3, 1e5, 1e6])
@pytest.mark.parametrize("span", [(0.0, None), (0.0, 1e7), (0.0, 500.0)])
def test_a_hole_in_the_time_stamps_makes_no_frames(tmp_path, far, span):
    raw = matroska(tmp_path / "v.mkv", [0, 0.2, far, far + 0.2])
    began = time.monotonic()
    found = clip(Modality.FACE, Raw(path=raw.path, start=span[0], end=span[1]))
    assert time.monotonic() - began < 2
    seen = [0, 0.2, far, far + 0.2]
    np.testing.assert_allclose(found.times, [at for at in seen if at < (span[1] or np.inf)])


def test_one_wild_time_stamp_costs_no_other_frame(tmp_path):
    class Frame:
        """As much of a frame as a feed looks at."""

        def __init__(self, at):
            self.time, self.duration, self.time_base, self.is_corrupt = at, 1, Fraction(1, 25), False

    class Track:
        kind, start, end, error, begun, lost, latest, counted = "video", 0.0, None, None, False, 0, 0.0, False

        def __init__(self):
            self.taken = []

        def add(self, frame, at):
            self.taken.append(round(at, 2))
            return True

    class Packet:
        size, time_base = 1, Fraction(1, 25)

        def __init__(self, at):
            self.pts, self.frames = round(at * 25), [Frame(at)]

        def decode(self):
            return self.frames

    class Stream:
        start_time = 0

    def fed(*times):
        feed = container._Feed(Track(), Stream(), origin=0.0, sought=False)
        for at in times:
            feed.take(Packet(at))
        feed.flush()
        return feed.track.taken

    assert fed(0, 0.04, 1e9, 0.12, 0.16) == [0, 0.04, 0.08, 0.12, 0.16]  # wild: it follows the one before
    assert fed(1e9, 0.04, 0.08) == [0, 0.04, 0.08]
    assert fed(0, 0.04, 1e5, 1e5 + 0.04) == [0, 0.04, 1e5, 1e5 + 0.04]  # two agree: a hole
    assert fed(0, 0.04, 5, 0.0, 0.04) == [0, 0.04, 5, 5.04, 5.08]  # begins again: joined recordings
    assert fed(0, 0.04, 12, 10, 10.04) == [0, 0.04, 12, 12.04, 12.08]  # the second of which does not begin at 0
    assert fed(-1e9, -1e9 + 0.04, 0.0, 0.04)[:2] == [-1e9, -1e9 + 0.04]


def test_a_film_may_have_no_more_seconds_and_pixels_than_bounded(tmp_path):
    raw = matroska(tmp_path / "v.mkv", np.arange(0, 40, 4.0))
    assert len(clip(Modality.FACE, raw).times) == 36 * 5 + 1
    told = reason(Modality.FACE, raw, Bounds(seconds=10))
    assert told == "more than 10 s of frames, the limit (--max-seconds)"
    told = reason(Modality.FACE, raw, Bounds(pixels=64 * 64 * 4))
    assert told.startswith("more than 40 frames of 64 x 64 pixels: together over 163,840, ten times the limit")
    told = reason(Modality.FACE, raw, Bounds(pixels=64 * 64 * 4 - 1))
    assert told.startswith("64 x 64 pixels, more than 4,095, a quarter of the limit")


@pytest.mark.parametrize("size", [(65_535, 65_535), (16_384, 16_384), (1, 2**30)])
def test_a_frame_has_the_size_of_its_contents_not_that_of_the_container(tmp_path, size):
    data = matroska(tmp_path / "v.mkv", [0, 1]).path.read_bytes()
    narrow = b"\xb0\x81\x40\xba\x81\x40"  # width and height, one byte each, then room
    at = data.index(narrow)
    wide = b"\xb0\x84" + struct.pack(">I", size[0]) + b"\xba\x84" + struct.pack(">I", size[1])
    raw = named(tmp_path, "w.mkv", data[:at] + wide + data[at + 6 :])  # the sizes of what it lies in are wrong, too
    began = time.monotonic()
    found = clips({Modality.FACE: raw})[Modality.FACE]
    assert isinstance(found, MediaError) or found.pixels.shape[1:] == (64, 64, 3)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("side", [16_384, 65_535])
@pytest.mark.parametrize("modality", [Modality.FACE, Modality.IMAGE])
def test_a_picture_takes_no_memory_on_the_word_of_a_header(tmp_path, side, modality):
    data = io.BytesIO()
    Image.new("RGB", (16, 16)).save(data, "JPEG")
    lie = bytearray(data.getvalue())
    at = lie.index(b"\xff\xc0") + 5
    lie[at : at + 4] = struct.pack(">HH", side, side)
    began = time.monotonic()
    assert reason(modality, named(tmp_path, "p.jpg", bytes(lie)))
    assert time.monotonic() - began < 2


def test_many_streams_are_opened_at_once(tmp_path):
    with av.open(str(tmp_path / "s.mkv"), "w") as out:
        streams = [out.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(120)]
        frame = av.AudioFrame.from_ndarray(np.full((1, 160), 9000, np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        for stream in streams:
            out.mux(stream.encode(frame))
    began = time.monotonic()
    assert len(clip(Modality.AUDIO, Raw(path=tmp_path / "s.mkv"))) == 160
    assert time.monotonic() - began < 5


# sound


def wav(path, data=b"\0\1" * 16_000, form=1, channels=1, rate=16_000, bits=16, size=None) -> Raw:
    block = channels * bits // 8
    header = struct.pack("<HHIIHH", form, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    size = len(data) if size is None else size
    body = b"WAVEfmt " + struct.pack("<I", 16) + header + b"data" + struct.pack("<I", size) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body) & 0xFFFFFFFF) + body)
    return Raw(path=path)


@pytest.mark.parametrize("rate", [0, 1, 15, 999, 1_000_001, 2**31 - 1, 4_000_000_000, 2**32 - 1])
def test_a_rate_that_no_sound_has_is_an_error(tmp_path, rate):
    told = reason(Modality.AUDIO, wav(tmp_path / "s.wav", rate=rate))
    assert "is no rate of sound" in told or told.startswith("not audio: ")


@pytest.mark.parametrize("rate", [1000, 655_350])
def test_the_rates_at_the_ends_are_read(tmp_path, rate):
    found = clip(Modality.AUDIO, wav(tmp_path / "s.wav", b"\0\1" * rate, rate=rate))
    assert len(found) == pytest.approx(16_000, abs=2)


@pytest.mark.parametrize("channels", [0, 3, 1000, 65_535])
def test_channels_take_no_memory_on_the_word_of_a_header(tmp_path, channels):
    tracemalloc.start()
    found = clips({Modality.AUDIO: wav(tmp_path / "s.wav", bytes(60_000), channels=channels)})[Modality.AUDIO]
    assert isinstance(found, MediaError) or len(found) == 30_000 // channels
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, 3e38])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_samples_beyond_all_bounds_are_an_error(tmp_path, value, rate):
    wave = np.zeros((5000, 2))
    wave[2500] = value
    soundfile.write(tmp_path / "s.wav", wave, rate, subtype="DOUBLE")
    if value == 3e38:  # a float32, but no mean of two
        assert reason(Modality.AUDIO, Raw(path=tmp_path / "s.wav")) == "samples are not finite"
    else:
        assert "not finite" in reason(Modality.AUDIO, Raw(path=tmp_path / "s.wav"))


def test_a_long_silence_is_refused_with_both_lengths_and_in_little_memory(tmp_path):
    for name in ("s.flac", "s.ogg", "s.mp3"):
        with soundfile.SoundFile(tmp_path / name, "w", 48_000, 1) as file:
            for _ in range(60):
                file.write(np.zeros(48_000))
    for name in ("s.flac", "s.ogg", "s.mp3"):
        assert len(clip(Modality.AUDIO, Raw(path=tmp_path / name))) == 60 * 16_000
        tracemalloc.start()
        told = reason(Modality.AUDIO, Raw(path=tmp_path / name), Bounds(seconds=20))
        assert told == "more than 20 s of sound, the limit (--max-seconds); its header says 60 s"
        assert tracemalloc.get_traced_memory()[1] < 12e6  # 20 s at 48 kHz are 4 MB; all of it 12 MB and more
        tracemalloc.stop()
        part = Raw(path=tmp_path / name, start=30, end=45)
        assert len(clip(Modality.AUDIO, part, bounds=Bounds(seconds=20))) == 15 * 16_000


@pytest.mark.parametrize("beginning", [b"", b"RIFF", b"fLaC", b"OggS" * 5000])
def test_a_file_of_holes_is_a_reason_and_is_neither_hashed_nor_read(tmp_path, beginning):
    path = tmp_path / "s.wav"
    path.write_bytes(beginning)
    os.truncate(path, 2**42)  # hashing it would take hours
    for modality in (Modality.AUDIO, Modality.IMAGE, Modality.FACE):
        told = reason(modality, Raw(path=path))
        assert told.startswith("no file that can be read: claims 4,398,046,511,104 bytes, and ")
    with pytest.raises(OSError, match="on the disk"):
        fingerprint.of_file(path)


def test_the_sound_of_a_film_is_bounded_and_its_frames_are_kept(tmp_path):
    with av.open(str(tmp_path / "v.mkv"), "w") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuvj420p"
        track = out.add_stream("flac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000 * 30), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        out.mux(track.encode(frame))
        out.mux(track.encode(None))
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8)).reformat(format="yuvj420p")))
        out.mux(stream.encode(None))
    raw = Raw(path=tmp_path / "v.mkv")
    found = clips({Modality.AUDIO: raw, Modality.FACE: raw}, FRAMES, Bounds(seconds=20))
    assert str(found[Modality.AUDIO]).startswith("more than 20 s of sound, the limit (--max-seconds)")
    assert len(found[Modality.FACE].times) == 1


def test_a_span_beyond_all_time_is_empty(tmp_path):
    raw = matroska(tmp_path / "v.mkv", [0, 0.2])
    soundfile.write(tmp_path / "s.wav", np.ones(16_000) / 2, 16_000)
    for start in (1e6, 1e18, 1e300):
        assert reason(Modality.FACE, Raw(path=raw.path, start=start)) == "no picture in this span"
        assert reason(Modality.AUDIO, Raw(path=tmp_path / "s.wav", start=start)).startswith("zero-length audio")


# pictures


def png(path, width, height, bits=1, colour=0, extra=b"") -> Raw:
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, line = zlib.compressobj(), bytes(1 + (width * bits + 7) // 8)
    packed = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    return Raw(path=path)


def test_a_picture_may_have_no_more_pixels_than_bounded(tmp_path):
    raw = png(tmp_path / "p.png", 300, 200)
    assert clip(Modality.IMAGE, raw, bounds=Bounds(pixels=60_000)).shape == (200, 300, 3)
    told = reason(Modality.IMAGE, raw, Bounds(pixels=59_999))
    assert told == "300 x 200 pixels, more than 59,999, the limit (--max-pixels)"
    told = reason(Modality.IMAGE, png(tmp_path / "q.png", 20_000, 20_000))
    assert "400000000" in told
    assert "178956970" in told


def test_a_picture_takes_its_own_pixels_of_memory_and_little_more(tmp_path):
    import subprocess
    import sys

    png(tmp_path / "p.png", 6000, 6000)
    asked = (
        "import resource; from pathlib import Path\n"
        "from msa.extract.media import decode as media; from msa.types import Raw\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"media.read_image(Raw(path=Path({str(tmp_path / 'p.png')!r})))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)"
    )
    taken = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert int(taken.stdout) < 2 * 36e6 * 3  # it was 11 bytes a pixel


def test_bounds_hold_in_a_run_and_in_the_process_of_a_suspect(tmp_path, monkeypatch):
    from msa.cache.store import FeatureStore
    from msa.extract import job, pipeline

    for n in range(1, 4):
        soundfile.write(tmp_path / f"{n}.wav", np.sin(np.arange(16_000 * n) / 9), 16_000)
    (tmp_path / "t.csv").write_text("id,label,audio\n" + "".join(f"{n},positive,{n}.wav\n" for n in range(1, 4)))
    monkeypatch.setattr(pipeline, "suspects", lambda runs: {1})  # as if a run had died of the second
    limits = pipeline.Limits(clip=Bounds(seconds=1.5))
    asked = job.Job("table", tmp_path / "t.csv", "classic", limits=limits, engine=job.engine("serial"))
    found, store = job.survey(asked), FeatureStore.create(tmp_path / "store")
    (report,) = job.execute(asked, found, job.recipes(asked, found, store), store)
    assert sorted(report.failed) == [
        (str(n), "decode", f"more than 1.5 s of sound, the limit (--max-seconds); its header says {n} s")
        for n in (2, 3)
    ]


def test_bounds_are_no_part_of_what_a_view_is():
    assert not {"seconds", "pixels"} & {key for modality in Modality for key in media.versions(modality, {"fps": 5})}
