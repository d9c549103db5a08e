"""Decoding: what comes out has the promised form, and whatever is broken says so in one line."""

import io
import math
import re
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from PIL import Image, PngImagePlugin

from msa.extract.media import container, decode
from msa.extract.media.clips import Frames, Sampling
from msa.extract.media.decode import RATE, MediaError, clip, clips, read_text, versions
from msa.extract.media.sound import Wave
from msa.extract.media.tracks import Pictures, Sound
from msa.types import Modality, Raw


def write(folder, name, data: bytes) -> Raw:
    path = folder / name
    path.write_bytes(data)
    return Raw(path=path)


def picture(folder, name="p.jpg", size=(40, 30), mode="RGB", colour=(200, 30, 60), **save) -> Raw:
    Image.new(mode, size, colour).save(folder / name, **save)
    return Raw(path=folder / name)


def tone(seconds=1.0, rate=RATE, hertz=440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def sound(folder, wave, rate=RATE, name="s.wav", subtype="FLOAT", **span) -> Raw:
    soundfile.write(folder / name, wave, rate, subtype=subtype)
    return Raw(path=folder / name, **span)


# text


def test_text_comes_stripped_from_the_sample_or_its_file(tmp_path):
    assert clip(Modality.TEXT, Raw(text="  good day \n")) == "good day"
    assert clip(Modality.TEXT, write(tmp_path, "t.txt", "\ufeffgood day\r\n".encode())) == "good day"


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        ("naïve 😀".encode(), "naïve 😀", "utf-8-sig"),
        ("naïve – “so”".encode("cp1252"), "naïve – “so”", "cp1252"),
        (b"caf\xe9 \x81\x9d", "café \ufffd\ufffd", "cp1252"),  # 0x81 and 0x9D are letters in neither
    ],
)
def test_bytes_that_are_not_utf8_are_read_as_windows_latin(tmp_path, data, text, encoding):
    assert read_text(write(tmp_path, "t.txt", data)) == (text, encoding)


def test_every_byte_there_is_can_be_read(tmp_path):
    text, _ = read_text(write(tmp_path, "t.txt", b"x" + bytes(range(256))))
    assert text.encode("utf-8")


def test_surrogates_are_joined_or_replaced():
    assert clip(Modality.TEXT, Raw(text="\ud83d\ude00 \ud83d")) == "😀 \ufffd"


def test_long_text_is_left_whole():
    assert len(clip(Modality.TEXT, Raw(text="word " * 2000))) == 9999


@pytest.mark.parametrize("text", ["", " \n\t ", "\u3000"])
def test_text_without_a_letter_is_an_error(text):
    with pytest.raises(MediaError, match=r"^empty text$"):
        clip(Modality.TEXT, Raw(text=text))


# pictures


def test_a_picture_is_rgb_bytes_row_by_row(tmp_path):
    array = clip(Modality.IMAGE, picture(tmp_path, "p.png"))
    assert array.shape == (30, 40, 3)
    assert array.dtype == np.uint8
    assert (array == (200, 30, 60)).all()


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    assert clip(Modality.IMAGE, picture(tmp_path, exif=exif)).shape == (40, 30, 3)


@pytest.mark.parametrize(
    ("mode", "colour", "name", "expected"),
    [
        ("L", 90, "p.png", (90, 90, 90)),
        ("1", 1, "p.png", (255, 255, 255)),
        ("I;16", 90 * 256, "p.png", (90, 90, 90)),
        ("CMYK", (0, 255, 255, 0), "p.tif", (255, 0, 0)),
        ("RGBA", (200, 30, 60, 0), "p.png", (255, 255, 255)),  # transparent: what is seen is the page behind
        ("LA", (90, 255), "p.png", (90, 90, 90)),
        ("P", 0, "p.gif", (0, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, colour, name, expected):
    array = clip(Modality.IMAGE, picture(tmp_path, name, mode=mode, colour=colour))
    assert array.shape == (30, 40, 3)
    assert (array == expected).all()


@pytest.mark.parametrize(("mode", "colour"), [("I", 40_000), ("F", 0.5)])
def test_numbers_without_a_range_are_no_picture(tmp_path, mode, colour):
    with pytest.raises(MediaError, match=rf"^32 bits a pixel \(mode {mode}\)"):
        clip(Modality.IMAGE, picture(tmp_path, "p.tif", mode=mode, colour=colour))


def test_a_palette_with_transparency_does_not_warn(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([9, 9, 9, 200, 30, 60])
    image.save(tmp_path / "p.png", transparency=b"\x00\xff")
    assert (clip(Modality.IMAGE, Raw(path=tmp_path / "p.png")) == (200, 30, 60)).all()


def test_broken_metadata_does_not_spoil_a_sound_picture(tmp_path):
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01\x03\x00"  # promises 65,535 entries
    assert clip(Modality.IMAGE, picture(tmp_path, exif=exif)).shape == (30, 40, 3)


def test_an_empty_file_is_named_as_such(tmp_path):
    for modality in (Modality.IMAGE, Modality.AUDIO):
        with pytest.raises(MediaError, match=r"^empty file$"):
            clip(modality, write(tmp_path, "empty", b""))


def test_a_missing_file_is_named_as_such(tmp_path):
    for modality in (Modality.TEXT, Modality.IMAGE, Modality.AUDIO):
        with pytest.raises(MediaError, match=r"^missing file$"):
            clip(modality, Raw(path=tmp_path / "none"))
        with pytest.raises(MediaError, match=r"^no file is named$"):
            clip(modality, Raw())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_picture_is_an_error_however_much_is_there(tmp_path, kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    data = file.getvalue()
    with pytest.raises(MediaError) as caught:
        clip(Modality.IMAGE, write(tmp_path, "p", data[: int(len(data) * share)]))
    assert "0x" not in str(caught.value), "reasons are counted: no addresses in them"
    assert kind != "JPEG" or str(caught.value).startswith("truncated JPEG: ")


def test_something_else_is_not_a_picture(tmp_path):
    with pytest.raises(MediaError, match=r"^not a picture of a format that msa reads$"):
        clip(Modality.IMAGE, write(tmp_path, "p.jpg", b"<html>404</html>"))


def test_a_decompression_bomb_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(MediaError, match=r"^too large: "):
        clip(Modality.IMAGE, picture(tmp_path))


def test_a_large_picture_below_the_limit_does_not_warn(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert clip(Modality.IMAGE, picture(tmp_path)).shape == (30, 40, 3)


def test_a_text_chunk_that_explodes_is_an_error(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("bomb", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    with pytest.raises(MediaError, match=r"^broken picture: Decompressed data too large"):
        clip(Modality.IMAGE, picture(tmp_path, "p.png", pnginfo=info))


# sound


def test_sound_is_mono_float_at_16_khz(tmp_path):
    wave = clip(Modality.AUDIO, sound(tmp_path, tone()))
    assert wave.shape == (RATE,)
    assert wave.dtype == np.float32
    np.testing.assert_array_equal(wave, tone())


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 96_000])
def test_another_rate_is_resampled_to_the_same_tone(tmp_path, rate):
    wave = clip(Modality.AUDIO, sound(tmp_path, tone(rate=rate), rate))
    assert len(wave) == RATE
    np.testing.assert_allclose(wave[1000:-1000], tone()[1000:-1000], atol=2e-3)


def test_stereo_is_averaged(tmp_path):
    both = np.stack([tone(), np.zeros(RATE, np.float32)], axis=1)
    np.testing.assert_allclose(clip(Modality.AUDIO, sound(tmp_path, both)), tone() / 2)


def test_silence_is_valid(tmp_path):
    wave = clip(Modality.AUDIO, sound(tmp_path, np.zeros(RATE, np.float32)))
    assert not wave.any()


def test_a_span_is_that_part_of_the_whole(tmp_path):
    ramp = np.linspace(0, 1, 2 * RATE, dtype=np.float32)
    part = clip(Modality.AUDIO, sound(tmp_path, ramp, start=0.5, end=0.75))
    np.testing.assert_array_equal(part, ramp[RATE // 2 : RATE * 3 // 4])
    rest = clip(Modality.AUDIO, Raw(path=tmp_path / "s.wav", start=1.5, end=99.0))
    np.testing.assert_array_equal(rest, ramp[RATE * 3 // 2 :])


@pytest.mark.parametrize(
    ("start", "end"),
    [(3.0, 2.0), (1.0, 1.0), (-1.0, 2.0), (math.nan, 2.0), (0.0, math.nan), (0.0, math.inf), (math.inf, None)],
)
def test_an_empty_span_is_an_error(tmp_path, start, end):
    raw = sound(tmp_path, tone(), start=start, end=end)
    with pytest.raises(MediaError, match=rf"^span {start}-{end} s is empty$"):
        clip(Modality.AUDIO, raw)
    assert decode.seconds(raw) == 0.0  # else one such line would end the planning of all


def test_sound_without_samples_is_an_error(tmp_path):
    with pytest.raises(MediaError, match=r"^zero-length audio$"):
        clip(Modality.AUDIO, sound(tmp_path, np.zeros(0, np.float32)))
    with pytest.raises(MediaError, match=r"^zero-length audio: nothing in 5.0-6.0 s$"):
        clip(Modality.AUDIO, sound(tmp_path, tone(), start=5.0, end=6.0))


@pytest.mark.parametrize("data", [b"RIFF\x24\x00\x00\x00WAVEfmt ", b"not a sound at all", b"RIFF" + bytes(500)])
def test_a_corrupt_recording_is_an_error(tmp_path, data):
    with pytest.raises(MediaError, match=r"^not audio: "):
        clip(Modality.AUDIO, write(tmp_path, "s.wav", data))


def test_samples_that_are_not_numbers_are_an_error(tmp_path):
    wave = tone()
    wave[7] = np.nan
    with pytest.raises(MediaError, match="not finite"):
        clip(Modality.AUDIO, sound(tmp_path, wave))


def film(path, seconds=3.0, rate=44_100, with_sound=True) -> None:
    """A small mp4: grey pictures, and a rising sweep so that every moment sounds different."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        audio = container.add_stream("aac", rate=rate, layout="stereo") if with_sound else None
        for _ in range(int(seconds * 10)):
            grey = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8))
            container.mux(video.encode(grey))
        container.mux(video.encode(None))
        if audio:
            at = np.arange(int(seconds * rate)) / rate
            sweep = np.repeat(0.5 * np.sin(2 * np.pi * (200 + 150 * at) * at)[None], 2, axis=0).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(sweep, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = rate, 0
            for packet in audio.encode(frame):
                container.mux(packet)
            container.mux(audio.encode(None))


def test_the_sound_of_a_film_is_read(tmp_path):
    film(tmp_path / "f.mp4")
    wave = clip(Modality.AUDIO, Raw(path=tmp_path / "f.mp4"))
    assert len(wave) == pytest.approx(3 * RATE, abs=0.05 * RATE)  # a codec works in whole frames
    assert 0.25 < np.sqrt((wave**2).mean()) < 0.45


def test_a_span_of_a_film_is_that_part_of_the_whole(tmp_path):
    film(tmp_path / "f.mp4")
    whole = clip(Modality.AUDIO, Raw(path=tmp_path / "f.mp4"))
    part = clip(Modality.AUDIO, Raw(path=tmp_path / "f.mp4", start=1.5, end=2.0))
    expected = whole[RATE * 3 // 2 : RATE * 2]
    assert len(part) == len(expected)
    np.testing.assert_allclose(part[200:-200], expected[200:-200], atol=2e-3)  # the ends miss their neighbours


def test_a_film_without_sound_is_an_error(tmp_path):
    film(tmp_path / "f.mp4", with_sound=False)
    with pytest.raises(MediaError, match=r"^no sound track$"):
        clip(Modality.AUDIO, Raw(path=tmp_path / "f.mp4"))


def test_a_truncated_film_is_an_error(tmp_path):
    film(tmp_path / "f.mp4")
    with pytest.raises(MediaError, match=r"^not audio: "):
        clip(Modality.AUDIO, write(tmp_path, "g.mp4", (tmp_path / "f.mp4").read_bytes()[:2000]))


# frames


def video(path, seconds=2.0, rate=25, size=(64, 48), sound=False, first=20) -> Raw:
    """Frame n is grey, n steps brighter than the first."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "1", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        track = container.add_stream("aac", rate=RATE) if sound else None
        for n in range(int(seconds * rate)):
            pixels = np.full((size[1], size[0], 3), first + 3 * n, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
        if track is not None:
            wave = tone(seconds)[None]
            for start in range(0, wave.shape[1], 1024):
                frame = av.AudioFrame.from_ndarray(wave[:, start : start + 1024], format="fltp", layout="mono")
                frame.sample_rate, frame.pts = RATE, start
                container.mux(track.encode(frame))
            container.mux(track.encode())
    return Raw(path=path)


def numbers(frames) -> list[int]:
    """Which frames of `video` these are."""
    return [round((float(p.mean()) - 20) / 3) for p in frames.pixels]


def test_the_frames_on_the_screen_at_each_moment_are_taken(tmp_path):
    raw = video(tmp_path / "v.mp4")  # frame n is shown from n / 25 s on
    frames = clip(Modality.FACE, raw, Sampling(fps=5, side=640))
    assert frames.pixels.shape == (10, 48, 64, 3)
    assert frames.pixels.dtype == np.uint8
    np.testing.assert_allclose(frames.times, np.arange(10) / 5)
    assert numbers(frames) == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]


def test_more_frames_than_there_are_repeat_what_is_shown(tmp_path):
    frames = clip(Modality.FACE, video(tmp_path / "v.mp4", seconds=0.4, rate=5), Sampling(fps=10, side=640))
    assert numbers(frames) == [0, 0, 1]  # at 0, 0.1 and 0.2 s; how long the last frame stays is not known


def test_a_span_of_a_video_starts_at_its_own_zero(tmp_path):
    raw = video(tmp_path / "v.mp4")
    frames = clip(Modality.FACE, Raw(path=raw.path, start=1.2, end=1.8), Sampling(fps=5, side=640))
    assert numbers(frames) == [30, 35, 40]
    np.testing.assert_allclose(frames.times, [0, 0.2, 0.4])


def test_large_frames_are_scaled_down_and_small_ones_are_not_blown_up(tmp_path):
    raw = video(tmp_path / "v.mp4", seconds=0.2)
    assert clip(Modality.FACE, raw, Sampling(fps=5, side=32)).pixels.shape[1:] == (24, 32, 3)
    assert clip(Modality.FACE, raw, Sampling(fps=5, side=640)).pixels.shape[1:] == (48, 64, 3)


def test_a_picture_is_a_video_of_one_frame(tmp_path):
    frames = clip(Modality.FACE, picture(tmp_path))
    assert frames.pixels.shape == (1, 30, 40, 3)
    assert list(frames.times) == [0]


@pytest.mark.parametrize("span", [{}, {"start": 0.9}, {"start": 0.9, "end": 1.4}])
def test_sound_and_frames_of_one_pass_are_those_of_two(tmp_path, span, monkeypatch):
    raw = Raw(path=video(tmp_path / "v.mp4", sound=True).path, **span)
    opened = []
    monkeypatch.setattr(av, "open", lambda *a, real=av.open, **k: opened.append(a) or real(*a, **k))
    both = clips({Modality.AUDIO: raw, Modality.FACE: raw})
    assert len(opened) == 1
    np.testing.assert_array_equal(both[Modality.AUDIO], clip(Modality.AUDIO, raw))
    np.testing.assert_array_equal(both[Modality.FACE].pixels, clip(Modality.FACE, raw).pixels)


def test_streams_fail_apart(tmp_path):
    silent = video(tmp_path / "v.mp4")
    both = clips({Modality.AUDIO: silent, Modality.FACE: silent})
    assert str(both[Modality.AUDIO]) == "no sound track"
    assert len(both[Modality.FACE].times) == 10
    film(tmp_path / "f.mp4")
    cut = write(tmp_path, "g.mp4", (tmp_path / "f.mp4").read_bytes()[:2000])
    for error in clips({Modality.AUDIO: cut, Modality.FACE: cut}).values():
        assert isinstance(error, MediaError)
    for error in clips(
        {Modality.AUDIO: Raw(path=tmp_path / "none"), Modality.FACE: Raw(path=tmp_path / "none")}
    ).values():
        assert str(error) == "missing file"


# spans, and recordings that are not as they should be

FORMATS = {  # as many ways to seek and to round time stamps
    "pcm.mkv": ("libx264", "pcm_s16le"),
    "aac.mkv": ("libx264", "aac"),
    "aac.mp4": ("libx264", "aac"),
    "aac.flv": ("libx264", "aac"),
    "aac.ts": ("libx264", "aac"),
    "mp2.mpg": ("mpeg2video", "mp2"),
    "mp2.avi": ("mpeg4", "mp2"),
}
SOUND_RATE = 44_100  # Hz: a frame of 1024 samples is no whole number of milliseconds
LENGTH = 8.0  # s


def recording(path, video_at=0.0, audio_at=0.0, gop=250, fps=25, aspect=None) -> Raw:
    """Sound that never repeats, and pictures each brighter than the one before; where each of them begins, in s."""
    codecs = FORMATS.get(path.name, ("libx264", "aac"))
    with av.open(str(path), "w") as container:
        pictures = container.add_stream(codecs[0], rate=fps, options={"g": str(gop), "crf": "1", "qscale": "1"})
        pictures.width, pictures.height, pictures.pix_fmt = 32, 32, "yuv420p"
        pictures.codec_context.gop_size = gop
        if aspect:
            pictures.codec_context.sample_aspect_ratio = aspect
        track = container.add_stream(codecs[1], rate=SOUND_RATE, layout="mono")
        at = np.arange(int(LENGTH * SOUND_RATE)) / SOUND_RATE
        sweep = 0.5 * np.sin(2 * np.pi * (200 + 150 * at) * at)
        planar = codecs[1] == "aac"
        wave = (sweep.astype(np.float32) if planar else (sweep * 32767).astype(np.int16))[None]
        form = "fltp" if planar else "s16"
        size = 1152 if codecs[1] == "mp2" else 1024
        done = 0
        for n in range(int(LENGTH * fps)):
            grey = np.full((32, 32, 3), round(20 + n * 200 / (LENGTH * fps)), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = n + round(video_at * fps), Fraction(1, fps)
            container.mux(pictures.encode(frame))
            while done < min((n + 1) / fps * SOUND_RATE, wave.shape[1]):
                piece = av.AudioFrame.from_ndarray(wave[:, done : done + size], format=form, layout="mono")
                piece.sample_rate, piece.pts = SOUND_RATE, done + round(audio_at * SOUND_RATE)
                container.mux(track.encode(piece))
                done += size
        container.mux(pictures.encode())
        container.mux(track.encode())
    return Raw(path=path)


def part(raw, start=0.0, end=None) -> Raw:
    return Raw(path=raw.path, start=start, end=end)


def light(frames) -> np.ndarray:
    """How bright each frame is, (N,)."""
    return frames.pixels.mean(axis=(1, 2, 3))


def decoded(raw, fps=25) -> tuple[np.ndarray, int, Frames]:
    """Samples at their own rate, which is the second, and frames."""
    wave = Wave(target=None)
    found = Sound(raw.start, raw.end, wave)
    pictures = Pictures(raw.start, raw.end, Sampling(fps, 64))
    container.read(raw.path, raw.start, [found, pictures])
    found.check()
    return wave.samples(), found.rate, pictures.frames()


@pytest.mark.parametrize("name", FORMATS)
def test_a_span_of_any_format_is_that_part_of_the_whole(tmp_path, name):
    raw = recording(tmp_path / name)
    wave, rate, shown = decoded(raw)
    for start, end in ((0.32, 1.0), (4.36, 6.0), (7.0, None)):
        sound, _, frames = decoded(part(raw, start, end))
        expected = wave[round(start * rate) : None if end is None else round(end * rate)]
        assert len(sound) == len(expected)
        np.testing.assert_allclose(sound, expected, atol=1e-2)  # AAC fills up with noise; one sample off is 0.1
        chosen = (shown.times > start - 1e-6) & (shown.times < (end or np.inf) - 1e-6)
        np.testing.assert_allclose(frames.times + start, shown.times[chosen])
        np.testing.assert_array_equal(frames.pixels, shown.pixels[chosen])


@pytest.mark.parametrize("name", FORMATS)
def test_sound_does_not_change_when_faces_ride_along(tmp_path, name):
    raw = part(recording(tmp_path / name, gop=50), 4.36, 6.0)
    both = clips({Modality.AUDIO: raw, Modality.FACE: raw})
    np.testing.assert_array_equal(both[Modality.AUDIO], clip(Modality.AUDIO, raw))
    np.testing.assert_array_equal(both[Modality.FACE].pixels, clip(Modality.FACE, raw).pixels)


@pytest.mark.parametrize("name", ["aac.ts", "pcm.mkv"])
def test_a_recording_that_starts_late_begins_at_its_own_zero(tmp_path, name):
    (tmp_path / "late").mkdir()
    raw, late = recording(tmp_path / name), recording(tmp_path / "late" / name, video_at=5.0, audio_at=5.0)
    for span in ((0.0, None), (4.36, 6.0)):
        sound, _, frames = decoded(part(late, *span))
        expected, _, shown = decoded(part(raw, *span))
        np.testing.assert_array_equal(sound, expected)
        np.testing.assert_array_equal(frames.pixels, shown.pixels)
        np.testing.assert_array_equal(frames.times, shown.times)


def test_a_time_before_the_first_picture_has_none(tmp_path):
    raw = recording(tmp_path / "v.mp4", video_at=1.28)
    frames = clip(Modality.FACE, raw, Sampling(fps=5, side=64))
    assert frames.times[0] == pytest.approx(1.4)
    assert light(frames)[0] == pytest.approx(20 + 3, abs=2)  # 0.12 s after the first
    later = clip(Modality.FACE, part(raw, 0.8, 1.8), Sampling(fps=5, side=64))
    np.testing.assert_allclose(later.times, [0.6, 0.8])
    with pytest.raises(MediaError, match=r"^no picture in this span$"):
        clip(Modality.FACE, part(raw, 0.6, 1.2))


def test_sound_that_begins_late_has_no_silence_before_it(tmp_path):
    raw = recording(tmp_path / "v.mp4", audio_at=1.0)
    wave, rate, _ = decoded(raw)
    assert abs(len(wave) / rate - LENGTH) < 0.05
    first, _, _ = decoded(part(raw, 0.5, 2.0))
    np.testing.assert_allclose(first, wave[: len(first)], atol=2e-4)
    assert abs(len(first) / rate - 1.0) < 0.05  # an encoder's priming
    later, _, _ = decoded(part(raw, 3.0, 4.0))
    skipped = round(2.0 * rate) - (rate - len(first))
    np.testing.assert_allclose(later, wave[skipped : skipped + rate], atol=2e-4)


def test_a_frame_that_outlasts_the_span_is_on_the_screen_till_its_end(tmp_path):
    raw = video(tmp_path / "v.mp4", seconds=4, rate=1)
    frames = clip(Modality.FACE, part(raw, 1.2, 1.8), Sampling(fps=5, side=640))
    assert numbers(frames) == [1, 1, 1]
    np.testing.assert_allclose(frames.times, [0, 0.2, 0.4])


def test_every_pixel_counts_when_a_frame_is_scaled_down(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 200
    Image.fromarray(stripes).save(tmp_path / "p.png")
    frames = clip(Modality.FACE, Raw(path=tmp_path / "p.png"), Sampling(fps=5, side=16))
    np.testing.assert_allclose(frames.pixels, 50, atol=3)


def test_pixels_that_are_not_square_are_widened_as_a_player_does(tmp_path):
    raw = recording(tmp_path / "v.mp4", aspect=Fraction(2, 1))
    assert clip(Modality.FACE, raw, Sampling(fps=1, side=640)).pixels.shape[1:] == (32, 64, 3)
    assert clip(Modality.FACE, raw, Sampling(fps=1, side=32)).pixels.shape[1:] == (16, 32, 3)


def damage(raw, name, kind, start, end) -> Raw:
    """A copy in which the packets of one stream that begin from `start` to `end` s are filled with ones."""
    data = bytearray(raw.path.read_bytes())
    with av.open(str(raw.path)) as opened:
        for packet in opened.demux(getattr(opened.streams, kind)[0]):
            if packet.pts is not None and start <= packet.pts * packet.time_base < end:
                data[packet.pos + 4 : packet.pos + packet.size] = b"\xff" * (packet.size - 4)
    return write(raw.path.parent, name, bytes(data))


def test_the_sound_after_a_damaged_packet_is_read(tmp_path):
    raw = recording(tmp_path / "aac.mp4")
    broken = damage(raw, "b.mp4", "audio", 3.0, 3.02)
    (whole, rate, _), (found, _, _) = decoded(raw), decoded(broken)
    assert 1024 <= len(whole) - len(found) <= 2048  # left out, not filled up
    early, late = round(2.9 * rate), round(4.9 * rate)
    np.testing.assert_array_equal(found[:early], whole[:early])
    np.testing.assert_allclose(found[-late + early :], whole[-late + early :], atol=2e-4)
    after, _, _ = decoded(part(broken, 4.0, 5.0))
    np.testing.assert_allclose(after, whole[4 * rate : 5 * rate], atol=2e-4)  # spans go by time
    beyond, _, _ = decoded(part(broken, 2.0, 4.0))
    assert len(beyond) == 2 * rate - (len(whole) - len(found))  # up to its end, not beyond


def test_the_frames_after_a_damaged_packet_are_read(tmp_path):
    raw = recording(tmp_path / "aac.mp4", gop=1)
    whole = clip(Modality.FACE, raw, Sampling(25, 64))
    found = clip(Modality.FACE, damage(raw, "b.mp4", "video", 3.19, 3.29), Sampling(25, 64))
    kept = (whole.times < 3.19) | (whole.times > 3.29)
    assert kept.sum() == 200 - 3
    np.testing.assert_array_equal(found.times, whole.times[kept])  # no older frame stands in for what is lost
    np.testing.assert_array_equal(found.pixels, whole.pixels[kept])


def test_what_was_lost_is_counted_and_most_of_a_span_is_too_much(tmp_path):
    raw = recording(tmp_path / "aac.mp4", gop=1)
    for kind, make in (
        ("audio", lambda a, b: Sound(a, b, Wave())),
        ("video", lambda a, b: Pictures(a, b, Sampling(25, 64))),
    ):
        broken = damage(raw, f"{kind}.mp4", kind, 3.0, 4.0)
        found = make(2.5, 5.0)
        container.read(broken.path, 2.5, [found])
        assert found.error is None
        assert found.lost == pytest.approx(43 if kind == "audio" else 25, abs=1)
        found = make(2.9, 4.1)
        container.read(broken.path, 2.9, [found])
        assert re.fullmatch(rf"not {kind}: \d+ of \d+ packets cannot be decoded", str(found.error))


def test_a_recording_of_damaged_packets_alone_is_an_error(tmp_path):
    broken = damage(recording(tmp_path / "aac.mp4"), "b.mp4", "audio", -1.0, 99.0)
    with pytest.raises(MediaError, match=r"^not audio: Invalid data"):
        clip(Modality.AUDIO, broken)
    assert len(clip(Modality.FACE, broken).times) == 5 * LENGTH


def test_faces_measured_elsewhere_are_columns(tmp_path):
    raw = write(tmp_path, "o.csv", b"frame, timestamp, AU01_r\r\n1, 0.000, 1.5\r\n2, 0.033, nan\r\n")
    columns = clip(Modality.FACE, raw)
    assert columns.names == ("frame", "timestamp", "AU01_r")
    np.testing.assert_array_equal(columns.values, [[1, 0, 1.5], [2, 0.033, np.nan]])


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"a,b\n1,2\n3\n", "line 3 of the table"), (b"a,b\n1,x\n", "not a table of numbers"), (b"", "empty file")],
)
def test_a_broken_table_of_faces_is_an_error(tmp_path, data, reason):
    with pytest.raises(MediaError, match=reason):
        clip(Modality.FACE, write(tmp_path, "o.csv", data))


# the rest


def test_what_decides_the_numbers_is_stated():
    assert versions(Modality.AUDIO)["rate"] == RATE
    assert versions(Modality.AUDIO)["resample"] == "soxr-HQ"
    assert versions(Modality.IMAGE)["alpha"] == "over white"
    assert versions(Modality.TEXT)


@pytest.mark.real
def test_real_media_decode(shared):
    films = sorted((shared / "data" / "faces").glob("*.m*"))
    tweets = sorted((shared / "data" / "mvsa_single" / "data").glob("*.txt"))[:50]
    photos = sorted((shared / "data" / "mvsa_single" / "data").glob("*.jpg"))[:20]
    assert all(len(clip(Modality.AUDIO, Raw(path=path))) > RATE for path in films)
    assert all(clip(Modality.TEXT, Raw(path=path)) for path in tweets)
    assert all(clip(Modality.IMAGE, Raw(path=path)).shape[2] == 3 for path in photos)
