"""Every way a recording or a picture is stored: as long, and with the values, that a second reader finds.

The second reader of sound is the `ffmpeg` command where there is one, else PyAV on all packets; that of pictures numpy.
"""

import io
import shutil
import struct
import subprocess
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from msa.extract.media import decode, sound
from msa.extract.media.decode import MediaError, clip, clips
from msa.extract.media.sound import Wave
from msa.types import Modality, Raw

SECONDS = 1.3
RATE = 44_100
FFMPEG = shutil.which("ffmpeg")


def sweep(rate=RATE, channels=2, seconds=SECONDS) -> np.ndarray:
    """(samples, channels) that never repeat; the channels differ."""
    at = np.arange(round(rate * seconds)) / rate
    return np.stack([0.4 * np.sin(2 * np.pi * (200 + n * 90 + 400 * at) * at) for n in range(channels)], axis=1)


def ours(path, start=0.0, end=None) -> tuple[np.ndarray, int]:
    """What msa decodes, before it is resampled: (samples,) and the rate."""
    wave = sound.read(path, start, end, lambda: Wave(target=None))
    return wave.samples(), wave.last_rate


def theirs(path, rate: int) -> np.ndarray:
    """What FFmpeg decodes: (samples,) at `rate`, the mean of the channels."""
    if FFMPEG is None:
        return plainly(path)
    with av.open(str(path)) as recording:
        channels = recording.streams.audio[0].channels
    told = subprocess.run(
        [FFMPEG, "-v", "quiet", "-i", path, "-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "f32le", "-"],
        capture_output=True,
    )
    return np.frombuffer(told.stdout, "<f4").reshape(-1, channels).mean(axis=1)


def plainly(path) -> np.ndarray:
    """(samples,) by PyAV, packet after packet, without a time stamp looked at."""
    packed, parts = av.AudioResampler(format="flt"), []
    with av.open(str(path)) as recording:
        for frame in frames(recording):
            parts += [
                part.to_ndarray().reshape(-1, frame.layout.nb_channels).mean(1) for part in packed.resample(frame)
            ]
    return np.concatenate(parts)


def frames(recording):
    for packet in recording.demux(audio=0):
        try:
            yield from packet.decode()
        except av.FFmpegError:  # a tag in the middle of joined files
            continue


def close(found: np.ndarray, expected: np.ndarray, atol=2e-6) -> None:
    """Of one length, and alike; 2e-6 is what two decoders of MP3, Vorbis or Opus differ by."""
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=atol)


SUBTYPES = {  # of each container that libsndfile writes and FFmpeg reads; IMA and MS ADPCM fill up their last block
    "WAV": "PCM_U8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ALAW ULAW IMA_ADPCM MS_ADPCM",
    "WAVEX": "PCM_16 PCM_24 FLOAT",
    "RF64": "PCM_16 FLOAT",
    "W64": "PCM_16 PCM_24 DOUBLE ALAW",
    "AIFF": "PCM_S8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ALAW ULAW",
    "AU": "PCM_S8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ALAW ULAW",
    "CAF": "PCM_16 PCM_24 PCM_32 FLOAT ALAC_16 ALAC_24",
    "FLAC": "PCM_S8 PCM_16 PCM_24",
    "OGG": "VORBIS",
    "MP3": "MPEG_LAYER_III",
    "VOC": "PCM_U8 PCM_16",
    "NIST": "PCM_16 PCM_24",
}
WRITTEN = [(kind, subtype) for kind, subtypes in SUBTYPES.items() for subtype in subtypes.split()]


@pytest.mark.parametrize(("kind", "subtype"), WRITTEN)
def test_what_libsndfile_writes_is_what_ffmpeg_reads(tmp_path, kind, subtype):
    path = tmp_path / f"s.{ {'WAVEX': 'wav', 'RF64': 'wav', 'NIST': 'sph'}.get(kind, kind.lower()) }"
    soundfile.write(path, sweep(), RATE, format=kind, subtype=subtype)
    found, rate = ours(path)
    close(found, theirs(path, rate), atol=1e-2 if "ADPCM" in subtype else 2e-6)  # two decoders of ADPCM drift apart
    assert len(found) >= len(sweep())


CODECS = {  # name -> codec, sample format
    "aac.m4a": ("aac", "fltp"),
    "alac.m4a": ("alac", "s16p"),
    "flac.mka": ("flac", "s16"),
    "aac.mov": ("aac", "fltp"),
    "opus.webm": ("libopus", "flt"),
    "mp3.avi": ("libmp3lame", "fltp"),
    "mp2.mpg": ("mp2", "s16"),
    "ac3.ac3": ("ac3", "fltp"),
    "aac.adts": ("aac", "fltp"),
    "aac.ts": ("aac", "fltp"),
    "eac3.mka": ("eac3", "fltp"),
    "mp3.mp3": ("libmp3lame", "fltp"),
    "opus.ogg": ("libopus", "flt"),
    "pcm.mov": ("pcm_s24le", "s32"),
    "pcm.avi": ("pcm_u8", "u8"),
    "float.mkv": ("pcm_f32le", "flt"),
    "wv.wv": ("wavpack", "fltp"),
    "tta.tta": ("tta", "s16"),
    "flac.flac": ("flac", "s32"),
}


def encode(path, codec, form, wave=None, rate=48_000, options=None) -> None:
    """Write (samples, channels) by PyAV."""
    wave = sweep(rate) if wave is None else wave
    layout = {1: "mono", 2: "stereo"}[wave.shape[1]]
    with av.open(str(path), "w", options=options or {}) as out:
        track = out.add_stream(codec, rate=rate, layout=layout)
        track.codec_context.format = form
        step = track.codec_context.frame_size or 1024
        to_form = av.AudioResampler(format=form, layout=layout, rate=rate)
        for start in range(0, len(wave), step):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(wave[start : start + step].T, np.float32), format="fltp", layout=layout
            )
            frame.sample_rate, frame.pts = rate, start
            for ready in to_form.resample(frame):
                out.mux(track.encode(ready))
        out.mux(track.encode(None))


@pytest.mark.parametrize("name", CODECS)
def test_what_ffmpeg_writes_is_what_ffmpeg_reads(tmp_path, name):
    encode(tmp_path / name, *CODECS[name])
    found, rate = ours(tmp_path / name)
    close(found, plainly(tmp_path / name))
    assert len(found) == pytest.approx(len(sweep(48_000)), abs=0.06 * rate)


def mp3(path, rate=22_050, seconds=SECONDS, counted=True, even=False) -> bytes:
    """An MP3 of changing bit rate, or of an `even` one, mono; without a count of its frames if so wanted."""
    wave = sweep(rate, 1, seconds).astype(np.float32)
    wave[len(wave) // 2 :] *= 1e-3  # frames of two sizes: a guess from the first ones is wrong
    with av.open(str(path), "w", options={} if counted else {"write_xing": "0"}) as out:
        how = {"b": "64k"} if even else {"flags": "+qscale", "global_quality": "472"}
        stream = out.add_stream("libmp3lame", rate=rate, layout="mono", options=how)
        stream.codec_context.format = "fltp"
        for start in range(0, len(wave), 576):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[start : start + 576].T), "fltp", "mono")
            frame.sample_rate, frame.pts = rate, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path.read_bytes()


def test_an_mp3_without_a_count_of_its_frames_is_read_to_its_end(tmp_path):
    path = tmp_path / "s.mp3"
    mp3(path, seconds=6.0, counted=False)
    with soundfile.SoundFile(path) as file:
        assert abs(file.frames - 6 * 22_050) > 4000  # libsndfile guesses, which is what this is about
    found, rate = ours(path)
    assert len(found) == pytest.approx(6 * rate, abs=3 * 1152)
    close(found, plainly(path))


@pytest.mark.parametrize("name", ["s.mp3", "s.flac", "s.ogg", "s.wav"])
def test_blocks_of_any_size_give_the_same_samples(tmp_path, monkeypatch, name):
    soundfile.write(tmp_path / name, np.random.default_rng(0).uniform(-0.5, 0.5, (40_000, 2)), 22_050)
    whole, _ = ours(tmp_path / name)
    monkeypatch.setattr(sound, "BLOCK", 6_000)
    assert np.array_equal(ours(tmp_path / name)[0], whole)


def test_joined_mp3_are_read_to_the_end_of_the_last(tmp_path):
    first, second = mp3(tmp_path / "a.mp3"), mp3(tmp_path / "b.mp3", seconds=2.0)
    (tmp_path / "ab.mp3").write_bytes(first + second)
    found, rate = ours(tmp_path / "ab.mp3")
    assert len(found) == pytest.approx((SECONDS + 2.0) * rate, abs=0.2 * rate)
    close(found, plainly(tmp_path / "ab.mp3"))


@pytest.mark.parametrize(("first", "second"), [(16_000, 44_100), (44_100, 22_050)])
def test_joined_mp3_of_two_rates_are_no_first_part_alone(tmp_path, first, second):
    parts = [mp3(tmp_path / f"{rate}.mp3", rate, 2.0, counted=False, even=True) for rate in (first, second)]
    (tmp_path / "ab.mp3").write_bytes(b"".join(parts))
    with pytest.raises(MediaError, match=f"the rate changes from {first} to {second} Hz"):
        ours(tmp_path / "ab.mp3")


@pytest.mark.parametrize("frames", [1, 20, 100_000])
def test_a_wrong_count_of_frames_in_an_mp3_is_not_believed(tmp_path, frames):
    data = bytearray(mp3(tmp_path / "a.mp3", seconds=4.0))
    right, _ = ours(tmp_path / "a.mp3")
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    data[at : at + 4] = struct.pack(">I", frames)
    (tmp_path / "b.mp3").write_bytes(data)
    found, _ = ours(tmp_path / "b.mp3")
    assert len(found) == pytest.approx(len(right), abs=4096)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize(("start", "end"), [(0.3, 0.9), (1.0, None), (5.7, 9.1), (7.001, 7.4), (11.5, None)])
def test_a_span_of_an_mp3_is_that_part_of_the_whole(tmp_path, start, end, counted):
    path = tmp_path / "s.mp3"
    mp3(path, seconds=12.0, counted=counted)
    whole, rate = ours(path)
    found, _ = ours(path, start, end)
    np.testing.assert_array_equal(found, whole[round(start * rate) : None if end is None else round(end * rate)])


def ogg(path, subtype="VORBIS", rate=48_000, channels=1, seconds=SECONDS) -> tuple[bytes, np.ndarray]:
    soundfile.write(path, sweep(rate, channels, seconds), rate, format="OGG", subtype=subtype)
    return path.read_bytes(), soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_streams_that_follow_each_other_are_all_read(tmp_path, subtype):
    parts = [ogg(tmp_path / f"{n}.ogg", subtype, channels=n, seconds=n) for n in (1, 2)]
    path = tmp_path / "chain.ogg"
    path.write_bytes(b"".join(data for data, _ in parts) + parts[0][0])
    found, rate = ours(path)
    expected = np.concatenate([wave for _, wave in parts] + [parts[0][1]])
    np.testing.assert_array_equal(found, expected)
    for start, end in ((0.5, 1.5), (1.25, 2.0), (2.9, None), (3.5, 3.75)):
        span = expected[round(start * rate) : None if end is None else round(end * rate)]
        np.testing.assert_array_equal(ours(path, start, end)[0], span)


def test_ogg_streams_of_two_rates_are_brought_to_one(tmp_path):
    (slow, _), (fast, _) = ogg(tmp_path / "a.ogg", rate=8000), ogg(tmp_path / "b.ogg", rate=44_100)
    (tmp_path / "c.ogg").write_bytes(slow + fast)
    found = clip(Modality.AUDIO, Raw(path=tmp_path / "c.ogg"))
    alone = [clip(Modality.AUDIO, Raw(path=tmp_path / name)) for name in ("a.ogg", "b.ogg")]
    np.testing.assert_array_equal(found, np.concatenate(alone))


def test_an_ogg_stream_that_goes_on_in_a_broken_one_is_an_error(tmp_path):
    data, _ = ogg(tmp_path / "a.ogg")
    (tmp_path / "b.ogg").write_bytes(data + data[:60] + bytes(500))
    with pytest.raises(MediaError, match=r"^stream 2 of 2 in this Ogg file cannot be decoded$"):
        ours(tmp_path / "b.ogg")


@pytest.mark.parametrize("total", [0, 1000, 60_000, 2**36 - 1])
def test_a_wrong_length_in_a_flac_is_not_believed(tmp_path, total):
    soundfile.write(tmp_path / "a.flac", sweep(), RATE)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    facts = int.from_bytes(data[18:26], "big")  # rate, channels, bits, then 36 bits of length
    data[18:26] = (facts >> 36 << 36 | total).to_bytes(8, "big")
    (tmp_path / "b.flac").write_bytes(data)
    np.testing.assert_array_equal(ours(tmp_path / "b.flac")[0], ours(tmp_path / "a.flac")[0])


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0xFFFFFFF0, 0x7FFFFFFF])
def test_a_wav_whose_writer_could_not_go_back_is_read_to_its_end(tmp_path, size):
    soundfile.write(tmp_path / "a.wav", sweep(), RATE, subtype="PCM_16")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", size)
    (tmp_path / "b.wav").write_bytes(data)
    np.testing.assert_array_equal(ours(tmp_path / "b.wav")[0], ours(tmp_path / "a.wav")[0])


def test_what_stands_behind_the_samples_of_a_wav_is_no_sound(tmp_path):
    soundfile.write(tmp_path / "a.wav", sweep(), RATE, subtype="PCM_16")
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "b.wav").write_bytes(data + b"LIST" + struct.pack("<I", 50_000) + bytes(50_000))
    np.testing.assert_array_equal(ours(tmp_path / "b.wav")[0], ours(tmp_path / "a.wav")[0])


@pytest.mark.parametrize(("name", "subtype"), [("s.wav", "PCM_16"), ("s.flac", "PCM_16"), ("s.aiff", "PCM_24")])
def test_a_recording_that_breaks_off_is_used_as_far_as_it_goes(tmp_path, name, subtype):
    soundfile.write(tmp_path / name, sweep(), RATE, subtype=subtype)
    whole, _ = ours(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / f"cut_{name}").write_bytes(data[: len(data) * 6 // 10])
    found, _ = ours(tmp_path / f"cut_{name}")
    assert 0.4 * len(whole) < len(found) < 0.7 * len(whole)
    np.testing.assert_array_equal(found, whole[: len(found)])


def test_a_rate_that_changes_within_a_recording_is_an_error(tmp_path):
    (tmp_path / "ab.mp3").write_bytes(mp3(tmp_path / "a.mp3") + mp3(tmp_path / "b.mp3", rate=44_100))
    with pytest.raises(MediaError, match=r"^the rate changes from 22050 to 44100 Hz$"):
        ours(tmp_path / "ab.mp3")


def tracks(path, loud: int, default: int) -> Raw:
    """A recording with two sound tracks; which is loud, and which a player plays by itself."""
    with av.open(str(path), "w", options={"default_mode": "passthrough"}) as out:
        streams = [out.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(2)]
        for n, stream in enumerate(streams):
            stream.disposition = av.stream.Disposition.default if n == default else av.stream.Disposition(0)
        for n, stream in enumerate(streams):
            wave = np.full((1, 16_000), 9000 if n == loud else 0, np.int16)
            frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 0
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return Raw(path=path)


@pytest.mark.parametrize("default", [0, 1])
def test_of_several_sound_tracks_the_one_that_players_play_is_read(tmp_path, default):
    wave = clip(Modality.AUDIO, tracks(tmp_path / "t.mkv", loud=default, default=default))
    assert abs(wave).mean() > 0.2


# pictures


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path, values, bits, colour, key=None, palette=None) -> Raw:
    """A PNG by hand: `values` (H, W) or (H, W, channels) of `bits` each; `key` is the tRNS."""
    values = np.asarray(values)
    lines = []
    for line in values.reshape(len(values), -1):
        bit = "".join(f"{value:0{bits}b}" for value in line)
        bit += "0" * (-len(bit) % 8)
        lines.append(b"\0" + bytes(int(bit[n : n + 8], 2) for n in range(0, len(bit), 8)))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour, 0, 0, 0)
    extra = (chunk(b"PLTE", palette) if palette else b"") + (chunk(b"tRNS", key) if key else b"")
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(b"".join(lines))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return Raw(path=path)


def over_white(grey, alpha) -> np.ndarray:
    """(H, W, 3) uint8 of grey and alpha, both 0 to 255."""
    shown = np.asarray(grey, float) * np.asarray(alpha) / 255 + 255 - np.asarray(alpha)
    return np.repeat(np.round(shown).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("clear", [False, True])
def test_greys_of_any_depth_and_the_transparent_one_among_them(tmp_path, bits, clear):
    most = 2**bits - 1
    values = np.array([[0, 1, most // 2, most], [most, most // 3, 1, 0]])
    shown = clip(Modality.IMAGE, png(tmp_path / "p.png", values, bits, 0, struct.pack(">H", 1) if clear else None))
    grey = values >> 8 if bits == 16 else values * (255 // most)
    np.testing.assert_array_equal(shown, over_white(grey, np.where((values == 1) & clear, 0, 255)))


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_with_alpha(tmp_path, bits):
    values = np.array([[[0, 0], [100, 128], [200, 255]]]) * (1 if bits == 8 else 257)
    shown = clip(Modality.IMAGE, png(tmp_path / "p.png", values, bits, 4))
    np.testing.assert_allclose(shown, over_white([[0, 100, 200]], [[0, 128, 255]]), atol=1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_with_alpha(tmp_path, bits):
    palette, alpha = bytes([10, 10, 10, 200, 200, 200]), bytes([0x80])  # the first half transparent, the second not
    shown = clip(Modality.IMAGE, png(tmp_path / "p.png", [[0, 1, 0]], bits, 3, alpha, palette))
    np.testing.assert_allclose(shown, over_white([[10, 200, 10]], [[128, 255, 128]]), atol=1)


@pytest.mark.parametrize("bits", [8, 16])
def test_colours_and_the_transparent_one_among_them(tmp_path, bits):
    values = np.array([[[1, 2, 3], [40, 50, 60]]]) * (1 if bits == 8 else 257)
    raw = png(tmp_path / "p.png", values, bits, 2)
    np.testing.assert_array_equal(clip(Modality.IMAGE, raw), [[[1, 2, 3], [40, 50, 60]]])
    raw = png(tmp_path / "q.png", values, bits, 2, struct.pack(">HHH", *values[0, 0]))
    if bits == 8:
        np.testing.assert_array_equal(clip(Modality.IMAGE, raw), [[[255, 255, 255], [40, 50, 60]]])
    else:
        with pytest.raises(MediaError, match=r"^16 bits a channel and a transparent colour"):
            clip(Modality.IMAGE, raw)


def tiff(path, values, bits, white_is_zero=False) -> Raw:
    """A grey TIFF by hand."""
    values = np.asarray(values)
    bit = "".join(f"{value:0{bits}b}" for value in values.ravel())
    data = bytes(int(bit[n : n + 8], 2) for n in range(0, len(bit), 8))
    data = values.astype("<u2").tobytes() if bits == 16 else data
    height, width = values.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 8), (277, 1)]
    tags += [(278, height), (279, len(data))]
    padded = data + bytes(len(data) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(padded)) + padded + directory)
    return Raw(path=path)


@pytest.mark.parametrize(("bits", "white_is_zero"), [(8, False), (8, True), (12, False), (16, False), (16, True)])
def test_a_tiff_is_scaled_by_its_depth_and_turned_where_white_is_zero(tmp_path, bits, white_is_zero):
    values = np.array([[0, 2 ** (bits - 1), 2**bits - 1, 2 ** (bits - 2)]])
    grey = values >> (bits - 8)
    expected = over_white(255 - grey if white_is_zero else grey, 255)
    np.testing.assert_array_equal(clip(Modality.IMAGE, tiff(tmp_path / "p.tif", values, bits, white_is_zero)), expected)


def scene(size=(48, 32)) -> Image.Image:
    chance = np.random.default_rng(7).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(np.kron(chance, np.ones((8, 8, 1), np.uint8)))


def same(found: np.ndarray, expected: Image.Image) -> None:
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_colour_spaces_and_moving_pictures(tmp_path):
    picture = scene()
    for name, mode, options in (
        ("cmyk.jpg", "CMYK", {"quality": 100}),
        ("cmyk.tif", "CMYK", {}),
        ("ycc.tif", "YCbCr", {}),
        ("lab.tif", "LAB", {}),
        ("interlaced.gif", "P", {"interlace": 1}),
        ("p.webp", "RGB", {"lossless": True}),
        ("p.bmp", "RGB", {}),
        ("p.ppm", "RGB", {}),
        ("p.jp2", "RGB", {"irreversible": False}),
        ("icc.jpg", "RGB", {"icc_profile": b"of no account", "quality": 100}),
    ):
        converted = picture if mode == "RGB" else picture.convert(mode) if mode != "LAB" else lab(picture)
        converted.save(tmp_path / name, **options)
        found = clip(Modality.IMAGE, Raw(path=tmp_path / name)).astype(int)
        far = 16 if mode in ("CMYK", "P", "LAB") else 4
        assert np.median(abs(found - np.asarray(picture))) <= far, name
    dark = Image.new("RGB", picture.size)
    for name in ("m.gif", "m.webp", "m.png"):
        picture.quantize(64).convert("RGB").save(
            tmp_path / name, save_all=True, append_images=[dark, dark], duration=50, lossless=True
        )
        same(clip(Modality.IMAGE, Raw(path=tmp_path / name)), picture.quantize(64).convert("RGB"))


def lab(picture: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(picture, *profiles, outputMode="LAB")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_a_picture_is_turned_as_exif_says_alone_and_as_a_face(tmp_path, orientation, kind):
    picture = scene()
    exif = picture.getexif()
    exif[0x112] = orientation
    path = tmp_path / f"p.{kind}"
    picture.save(path, exif=exif, **({"quality": 98, "subsampling": 0} if kind == "jpg" else {"lossless": True}))
    turn = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
        8: lambda p: np.rot90(p),
    }[orientation]
    upright = turn(np.asarray(picture)).astype(int)
    assert abs(clip(Modality.IMAGE, Raw(path=path)) - upright).mean() < 3
    faces = clips({Modality.FACE: Raw(path=path)})[Modality.FACE]
    assert abs(faces.pixels[0] - upright).mean() < 3


def test_a_picture_is_the_same_in_pieces_as_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("msa.extract.media.picture.BLOCK", 100)
    picture = scene((56, 40))
    alpha = Image.fromarray(np.arange(56 * 40, dtype=np.uint32).astype(np.uint8).reshape(40, 56))
    clear = picture.copy()
    clear.putalpha(alpha)
    for name, image in (("rgb.png", picture), ("rgba.png", clear), ("l.png", picture.convert("L"))):
        image.save(tmp_path / name)
        with Image.open(tmp_path / name) as whole:
            rgba = whole.convert("RGBA")
            expected = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), rgba).convert("RGB")
        same(clip(Modality.IMAGE, Raw(path=tmp_path / name)), expected)
    picture.quantize(16).save(tmp_path / "p.png", transparency=bytes(range(0, 256, 16)))
    with Image.open(tmp_path / "p.png") as whole:
        rgba = whole.convert("RGBA")
        expected = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), rgba).convert("RGB")
    same(clip(Modality.IMAGE, Raw(path=tmp_path / "p.png")), expected)


# films


def film(path, times, size=(64, 48), codec="libx264", cover=False) -> Raw:
    """Frame n is grey, n * 20 steps bright, and shown from times[n] s on."""
    with av.open(str(path), "w") as out:
        if cover:
            picture = io.BytesIO()
            Image.new("RGB", (16, 16), "red").save(picture, "PNG")
            art = out.add_stream("png", rate=1)
            art.width, art.height, art.pix_fmt = 16, 16, "rgb24"
            art.disposition = av.stream.Disposition.attached_pic
        stream = out.add_stream(codec, rate=25, options={"crf": "1", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if cover:
            out.mux(art.encode(av.VideoFrame.from_ndarray(np.full((16, 16, 3), 255, np.uint8))))
        for n, at in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), n * 20, np.uint8))
            frame.pts, frame.time_base = round(at * 1000), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return Raw(path=path)


def steps(frames) -> list[int]:
    return [round(float(pixels.mean()) / 20) for pixels in frames.pixels]


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.mov"])
def test_frames_of_unequal_length_are_shown_as_long_as_they_last(tmp_path, name):
    raw = film(tmp_path / name, [0, 0.1, 0.9, 1.0, 1.3])
    assert steps(clip(Modality.FACE, raw, decode.Sampling(fps=5, side=64))) == [0, 1, 1, 1, 1, 3, 3]


def test_a_cover_is_not_the_film(tmp_path):
    found = clip(Modality.FACE, film(tmp_path / "v.mp4", [0, 0.2, 0.4], cover=True))
    assert found.pixels.shape[1:] == (48, 64, 3)
    assert steps(found) == [0, 1, 2]


MATRICES = {
    "as it is": (1, 0, 0, 1, lambda p: p),
    "a quarter": (0, 1, -1, 0, lambda p: np.rot90(p, -1)),
    "half": (-1, 0, 0, -1, lambda p: np.rot90(p, 2)),
    "three quarters": (0, -1, 1, 0, lambda p: np.rot90(p)),
    "left and right": (-1, 0, 0, 1, lambda p: p[:, ::-1]),
    "up and down": (1, 0, 0, -1, lambda p: p[::-1]),
    "along": (0, 1, 1, 0, lambda p: p.transpose(1, 0, 2)),
    "across": (0, -1, -1, 0, lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
}


@pytest.mark.parametrize("how", MATRICES)
def test_a_film_is_turned_and_mirrored_as_its_matrix_says(tmp_path, how):
    pixels = np.asarray(scene((64, 48)))
    with av.open(str(tmp_path / "v.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=5, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        out.mux(stream.encode())
    data = bytearray((tmp_path / "v.mp4").read_bytes())
    a, b, c, d, turn = MATRICES[how]
    at = data.index(b"tkhd") + 44
    data[at : at + 20] = struct.pack(">5i", a << 16, b << 16, 0, c << 16, d << 16)
    (tmp_path / "v.mp4").write_bytes(data)
    found = clip(Modality.FACE, Raw(path=tmp_path / "v.mp4")).pixels[0]
    assert abs(found - turn(pixels).astype(int)).mean() < 4
