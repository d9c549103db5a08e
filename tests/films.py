"""A small video corpus in the layout of CMU-MOSI: real faces, speech that msa makes, labels that fit the voice."""

import csv
from pathlib import Path

import av
import numpy as np
import soxr

from msa.demo import sentences, voices

MOODS = {"happy": ("positive", 2.0), "neutral": ("neutral", 0.0), "sad": ("negative", -1.6)}
FPS = 10
RATE = 16_000  # Hz


def pictures(path: Path, side: int = 240) -> list[np.ndarray]:
    """Frames of a real clip, uint8 (H, W, 3), `FPS` a second, small."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        shown = list(container.decode(stream))
    scale = side / max(shown[0].width, shown[0].height)
    size = [2 * round(scale * n / 2) for n in (shown[0].width, shown[0].height)]
    step = max(1, round(float(stream.average_rate) / FPS))
    return [frame.reformat(*size, format="rgb24").to_ndarray() for frame in shown[::step]]


def film(path: Path, frames: list[np.ndarray], wave: np.ndarray) -> None:
    """An mp4 of these frames, as long as the sound (samples,) at RATE."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        video.height, video.width, video.pix_fmt = *frames[0].shape[:2], "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for n in range(round(len(wave) / RATE * FPS)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frames[n % len(frames)], format="rgb24")))
        container.mux(video.encode())
        for start in range(0, len(wave), 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024].astype(np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = RATE, start
            container.mux(audio.encode(frame))
        container.mux(audio.encode())


def corpus(root: Path, faces: Path, n: int = 24) -> Path:
    """`root` with Raw/ and label.csv: n clips of four videos; the faces come from the clips in `faces`."""
    seen = [pictures(faces / name) for name in ("single_face.mp4", "face_noface.mov")]
    rows = []
    for i in range(n):
        rng = np.random.default_rng(i)
        video, clip = f"vid{i % 4}", str(i // 4 + 1)
        mood = list(MOODS)[(i // 4) % 3]
        tone, label = MOODS[mood]
        spoken = voices.speak("OAF" if i % 2 else "YAF", "lamp", mood, rng).astype(np.float32) / 32768
        wave = soxr.resample(spoken, voices.RATE, RATE)
        (root / "Raw" / video).mkdir(parents=True, exist_ok=True)
        frames = seen[i % 2]
        film(root / "Raw" / video / f"{clip}.mp4", frames[int(rng.integers(len(frames) // 2)) :], wave)
        mode = ("train", "train", "valid", "test")[i % 4]
        text = sentences.sentence(tone, rng)
        rows.append({"video_id": video, "clip_id": clip, "text": text, "label": label + 0.1 * (i % 3), "mode": mode})
    with open(root / "label.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root
