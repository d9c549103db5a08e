"""Voices of the demo dataset: a small source-filter synthesiser that says one phrase in seven moods.

The larynx is a train of glottal pulses with jitter, shimmer and breath; the mouth is four resonances that glide from
sound to sound; fricatives and bursts are bands of noise. A mood moves pitch, its range and line, tempo, loudness,
breath and brightness: in the directions known of acted speech, by amounts that simple statistics mostly tell apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

RATE = 24414  # Hz, as TESS has it
FRAME, HOP = 512, 256  # samples: 21 ms, half overlapping, so that Hann windows add up to one
BINS = 1024  # points of the transform: room for the ringing of a resonance after its frame
CARRIER = "s eh y dh ah w er d"  # "say the word", then the word itself
RANGE = (1.25, 2.98)  # seconds: the shortest and the longest clip of TESS

WORDS = {  # our own list; the sounds of each word
    "lamp": "l ae m p", "stone": "s t ow n", "cloud": "k l ae w d", "mint": "m ih n t", "sand": "s ae n d",
    "tree": "t r iy", "plum": "p l ah m", "silk": "s ih l k", "fern": "f er n", "nest": "n eh s t",
    "wood": "w uh d", "mask": "m ae s k", "leaf": "l iy f", "moss": "m ao s", "salt": "s ao l t",
    "drum": "d r ah m", "loom": "l uw m", "kiln": "k ih l n", "barn": "b aa n", "fog": "f ao g",
    "shell": "sh eh l", "mud": "m ah d", "net": "n eh t", "fan": "f ae n", "brick": "b r ih k",
    "snow": "s n ow", "green": "g r iy n", "flute": "f l uw t", "spoon": "s p uw n", "harp": "hh aa p",
    "glass": "g l aa s", "wren": "r eh n", "sledge": "s l eh d sh", "bread": "b r eh d", "moth": "m ao th",
    "storm": "s t ao m", "tin": "t ih n", "globe": "g l ow b", "rust": "r ah s t", "twig": "t w ih g",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Speaker:
    """A voice: its resting pitch in Hz and how much shorter than an average throat its throat is."""

    pitch: float
    scale: float


SPEAKERS = {"OAF": Speaker(pitch=176, scale=1.0), "YAF": Speaker(pitch=212, scale=1.07)}  # TESS's codes: older, younger


@dataclass(frozen=True, slots=True)
class Mood:
    """How a phrase is said, as departures from neutral."""

    pitch: float = 0.0  # semitones
    span: float = 3.0  # semitones between the top and the bottom of the melody
    rise: float = -2.0  # semitones from the beginning to the end of the phrase
    tempo: float = 1.0
    gain: float = 0.0  # dB
    breath: float = 0.04  # noise beside the pulses
    bright: float = 0.0  # dB per kHz
    rough: float = 0.008  # jitter; shimmer follows it
    tremor: float = 0.0  # semitones


MOODS = {
    "angry": Mood(pitch=2.0, span=7, rise=-4, tempo=1.08, gain=6, breath=0.05, bright=2.2, rough=0.022),
    "disgust": Mood(pitch=-1.5, span=5, rise=-5, tempo=0.84, gain=1, breath=0.09, bright=0.4, rough=0.028),
    "fear": Mood(pitch=5.0, span=3, rise=1, tempo=1.18, gain=-1, breath=0.16, bright=0.3, rough=0.02, tremor=0.9),
    "happy": Mood(pitch=4.5, span=9, rise=-1, tempo=1.06, gain=3, breath=0.04, bright=1.4, rough=0.01),
    "neutral": Mood(),
    "ps": Mood(pitch=6.0, span=11, rise=6, tempo=0.98, gain=2, breath=0.07, bright=0.9, rough=0.01),
    "sad": Mood(pitch=-1.0, span=1.5, rise=-3, tempo=0.78, gain=-5, breath=0.18, bright=-1.6, rough=0.012),
}


@dataclass(frozen=True, slots=True)
class Sound:
    """One speech sound: its resonances in Hz (a woman's), and how loud larynx, breath and friction are."""

    formants: tuple[float, float, float, float]
    length: float = 0.09  # seconds
    voice: float = 0.0
    breath: float = 0.0
    hiss: float = 0.0
    band: float = 4000.0  # Hz: the middle of the friction
    burst: float = 0.0  # friction in the last quarter only, after a closure


def _vowel(f1: float, f2: float, f3: float, length: float) -> Sound:
    return Sound((f1, f2, f3, 4100), length, voice=1.0)


def _stop(locus: float, band: float, voiced: bool) -> Sound:
    """A closure, silent or murmuring, and a burst; `locus` is where the second resonance comes from."""
    return Sound((300, locus, 2800, 4100), 0.085, voice=0.12 if voiced else 0, burst=0.35 if voiced else 0.6, band=band)


SOUNDS = {
    "iy": _vowel(330, 2650, 3200, 0.19),
    "ih": _vowel(450, 2250, 2950, 0.14),
    "eh": _vowel(620, 2080, 2850, 0.16),
    "ae": _vowel(820, 1900, 2750, 0.2),
    "aa": _vowel(850, 1250, 2700, 0.21),
    "ao": _vowel(600, 950, 2650, 0.19),
    "ow": _vowel(520, 1000, 2600, 0.21),
    "uh": _vowel(480, 1250, 2650, 0.14),
    "uw": _vowel(370, 1000, 2600, 0.2),
    "ah": _vowel(720, 1400, 2750, 0.12),
    "er": _vowel(520, 1500, 1900, 0.19),
    "l": Sound((380, 1150, 2900, 4100), 0.07, voice=0.6),
    "r": Sound((380, 1250, 1750, 3900), 0.07, voice=0.6),
    "w": Sound((330, 750, 2500, 4000), 0.07, voice=0.6),
    "y": Sound((320, 2500, 3200, 4100), 0.08, voice=0.7),
    "m": Sound((270, 1100, 2300, 3900), 0.09, voice=0.35),
    "n": Sound((270, 1550, 2600, 3900), 0.09, voice=0.35),
    "s": Sound((320, 1700, 2700, 4100), 0.12, hiss=0.5, band=7000),
    "sh": Sound((320, 1900, 2700, 4100), 0.13, hiss=0.6, band=4200),
    "f": Sound((320, 1200, 2500, 4000), 0.11, hiss=0.16, band=8500),
    "th": Sound((320, 1500, 2600, 4000), 0.11, hiss=0.12, band=8000),
    "dh": Sound((320, 1500, 2600, 4000), 0.05, voice=0.35, hiss=0.05, band=7500),
    "hh": Sound((700, 1500, 2700, 4000), 0.08, breath=0.5),
    "p": _stop(900, 1200, voiced=False),
    "b": _stop(900, 900, voiced=True),
    "t": _stop(1900, 6000, voiced=False),
    "d": _stop(1900, 4500, voiced=True),
    "k": _stop(2100, 2600, voiced=False),
    "g": _stop(2100, 2200, voiced=True),
}
BANDWIDTHS = (70, 100, 150, 250)  # Hz, of the four resonances
ROUNDING = 2000  # Hz: from here on the pulse is softer than Rosenberg's, whose folds meet at full speed
HIGHER = np.arange(5200, 12000, 1100)[None, :]  # Hz: those above them hardly move, but without them all is dull


def speak(speaker: str, word: str, emotion: str, rng: np.random.Generator) -> np.ndarray:
    """Say the carrier phrase and `word` in a mood; (samples,) int16 at RATE."""
    mood = _performed(MOODS[emotion], rng)
    voice = SPEAKERS[speaker]
    sounds = [SOUNDS[name] for name in f"{CARRIER} {WORDS[word]}".split()]
    scale = voice.scale * rng.normal(1, 0.015)
    track = _tracks(sounds, _lengths(sounds, mood, rng), scale)
    pulses, breath = _larynx(_melody(len(track["voice"]), voice.pitch, mood, rng), mood, rng)
    wave = _mouth(track, pulses, breath, mood, rng)
    return _recorded(wave, mood, rng)


def _performed(mood: Mood, rng: np.random.Generator) -> Mood:
    """The mood as acted this time: between a hint of it and a bit too much, every cue with an error of its own."""
    strength, neutral = 1.1 * rng.beta(5, 1.2), MOODS["neutral"]
    swing = {"pitch": 1.2, "span": 1.2, "rise": 1.5, "tempo": 0.05, "gain": 2.0, "bright": 0.6, "tremor": 0.1}
    values = {}
    for name in (field.name for field in fields(Mood)):
        rest, full = getattr(neutral, name), getattr(mood, name)
        values[name] = rest + strength * (full - rest) + rng.normal(0, swing.get(name, 0.2 * full))
    for name, least in {"span": 0.5, "tempo": 0.6, "breath": 0.01, "rough": 0.003, "tremor": 0.0}.items():
        values[name] = max(least, values[name])
    return Mood(**values)


def _lengths(sounds: list[Sound], mood: Mood, rng: np.random.Generator) -> np.ndarray:
    """Seconds of each sound, (sounds,): the tempo, the drawl before the end, and a total as TESS has it."""
    lengths = np.array([sound.length for sound in sounds]) * 1.15 / mood.tempo * rng.lognormal(0, 0.08, len(sounds))
    lengths[-3:] *= 1.35  # speakers slow down towards the end of a phrase
    low, high = RANGE
    return lengths * np.clip(lengths.sum(), low, high - 0.3) / lengths.sum()


def _tracks(sounds: list[Sound], lengths: np.ndarray, scale: float) -> dict[str, np.ndarray]:
    """What the mouth does over time: formants (F, 4) and voice, breath, hiss, band, each (F,), one row per hop."""
    edges = np.cumsum(lengths)
    t = np.arange(int(edges[-1] * RATE / HOP)) * HOP / RATE
    index = np.minimum(np.searchsorted(edges, t, side="right"), len(sounds) - 1)
    done = 1 - (edges[index] - t) / lengths[index]  # how much of its sound each frame has behind it, 0 to 1
    burst = np.array([sound.burst for sound in sounds])[index] * (done > 0.75)
    rows = {
        name: np.array([getattr(sound, name) for sound in sounds])[index]
        for name in ("voice", "breath", "hiss", "band")
    }
    rows["hiss"] = rows["hiss"] + burst
    rows["breath"] = rows["breath"] + 0.3 * burst
    formants = np.array([sound.formants for sound in sounds])[index] * scale  # (F, 4)
    rows["formants"] = np.stack([_smooth(f, 9) for f in formants.T], axis=1)  # the tongue takes 90 ms for its way
    for name in ("voice", "breath", "hiss"):
        rows[name] = _smooth(rows[name], 3)
    return rows


def _smooth(x: np.ndarray, width: int) -> np.ndarray:
    """Hann-weighted running mean over `width` frames, the ends held; x is (F,)."""
    window = np.hanning(width + 2)[1:-1]
    return np.convolve(np.pad(x, width // 2, mode="edge"), window / window.sum(), mode="valid")


def _melody(frames: int, pitch: float, mood: Mood, rng: np.random.Generator) -> np.ndarray:
    """The pitch in Hz, (F,): a line that rises or falls, one accent on "say", a larger one on the word."""
    x = np.linspace(0, 1, frames)
    line = mood.rise * (x - 0.5)
    accent = 0.5 * np.exp(-(((x - 0.15) / 0.1) ** 2)) + np.exp(-(((x - rng.normal(0.8, 0.03)) / 0.12) ** 2))
    wander = _smooth(rng.normal(0, 1.2, frames), 15)
    shake = mood.tremor * np.sin(2 * np.pi * 6.5 * np.arange(frames) * HOP / RATE + rng.uniform(0, 6))
    return pitch * 2 ** ((mood.pitch + line + mood.span * (accent - 0.3) + wander + shake) / 12)


def _larynx(f0: np.ndarray, mood: Mood, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The flow through the glottis, differentiated, and breath noise in its rhythm; both (F * HOP,)."""
    n = len(f0) * HOP
    hz = np.interp(np.arange(n), np.arange(len(f0)) * HOP, f0)
    cycles = int(hz.sum() / RATE) + 2
    cycle = np.minimum((np.cumsum(hz) / RATE).astype(int), cycles - 1)
    cycle, phase = np.divmod(np.cumsum(hz * (1 + rng.normal(0, mood.rough, cycles))[cycle]) / RATE, 1.0)  # jitter
    loud = (1 + rng.normal(0, 3 * mood.rough, cycles + 9))[cycle.astype(int)]  # shimmer, changing while closed
    opening, closing = np.clip(phase / 0.42, 0, 1), np.clip((phase - 0.42) / 0.2, 0, 1)
    flow = loud * 0.5 * (1 - np.cos(np.pi * opening)) * np.cos(0.5 * np.pi * closing)  # Rosenberg's pulse
    pulses = np.diff(flow, prepend=0.0)
    return pulses / pulses.std(), rng.normal(0, 1, n) * (0.4 + flow)


def _mouth(
    track: dict[str, np.ndarray], pulses: np.ndarray, breath: np.ndarray, mood: Mood, rng: np.random.Generator
) -> np.ndarray:
    """Filter larynx and noise frame by frame in the frequency domain and overlap-add; (samples,)."""
    hz = np.fft.rfftfreq(BINS, 1 / RATE)  # (K,)
    tilt = 10 ** (mood.bright * (hz / 1000 - 1).clip(-1, 4) / 20) / (1 + 1j * hz / ROUNDING)  # (K,)
    throat = _resonances(track["formants"], hz) * tilt  # (F, K)
    band = np.exp(-(((hz - track["band"][:, None]) / (0.3 * track["band"][:, None])) ** 2))  # (F, K)
    voice, air, hiss = (track[name][:, None] for name in ("voice", "breath", "hiss"))
    breathing = mood.breath * voice + 0.5 * air
    frames = throat * (voice * _frames(pulses) + breathing * _frames(breath))
    frames = frames + 0.5 * hiss * band * _frames(rng.normal(0, 1, len(pulses)))
    pieces = np.fft.irfft(frames, BINS)  # (F, BINS)
    wave = np.zeros(len(pieces) * HOP + BINS)
    for row, piece in enumerate(pieces):
        wave[row * HOP : row * HOP + BINS] += piece
    return wave


def _frames(x: np.ndarray) -> np.ndarray:
    """Spectra of windowed frames; x is (F * HOP,), the result (F, K)."""
    padded = np.pad(x, (0, FRAME - HOP))
    views = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]  # (F, FRAME)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)  # periodic: two of them add up to one
    return np.fft.rfft(views * window, BINS)


def _resonances(formants: np.ndarray, hz: np.ndarray) -> np.ndarray:
    """The response of resonators in a row, (F, K) complex; formants is (F, 4), each has gain one at 0 Hz."""
    z = np.exp(-2j * np.pi * hz / RATE)[None, :]  # one sample's delay at each frequency

    def row(formants: np.ndarray, widths: Sequence[float]) -> np.ndarray:
        response = np.ones((len(formants), len(hz)), complex)
        for f, width in zip(formants.T, widths, strict=True):
            pole = np.exp((-np.pi * width + 2j * np.pi * f[:, None]) / RATE)  # (F, 1)
            response *= abs(1 - pole) ** 2 / ((1 - pole * z) * (1 - pole.conj() * z))
        return response

    return row(formants, BANDWIDTHS) * row(HIGHER, [500] * HIGHER.shape[1])


def _recorded(wave: np.ndarray, mood: Mood, rng: np.random.Generator) -> np.ndarray:
    """Level, room noise and silence at both ends, as int16; loud voices are bent, never clipped."""
    silence = [np.zeros(int(RATE * rng.uniform(0.03, 0.09))) for _ in range(2)]
    wave = np.concatenate([silence[0], wave, silence[1]])
    loudness = np.sqrt(np.mean(wave**2))
    wave = 0.07 * 10 ** (mood.gain / 20) * wave / loudness
    wave = wave + rng.normal(0, 10 ** (rng.uniform(-62, -52) / 20), len(wave))
    return (32000 * np.tanh(wave)).astype("<i2")
