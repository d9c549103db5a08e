"""Run every command on stores that were changed at random: no traceback, no hang, nothing outside the store touched.

A command runs in a process that was forked when everything was imported, within 60 s and 1 GB, on a copy of the store
where it changes it. Beside the store lies a canary, which the links that are planted point to.
"""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.faults import store_changes

MOST_S, MOST_BYTES = 60, 10**9
CRASHED = 70  # the exit code of a command that ends in a traceback
LABELS = ("negative", "neutral", "positive")


@dataclass(frozen=True)
class Fault:
    """What went wrong with a command on a mutated store."""

    seed: int
    words: str
    what: str
    changes: tuple[str, ...]
    output: str = ""


def trials(folder: Path, stores: int, seed: int, workers: int) -> tuple[list[Fault], Counter[int], int, float]:
    """Return the faults, how often each exit code came, the most memory in bytes and the longest command in seconds."""
    base = honest(folder / "base")
    faults: list[Fault] = []
    codes, peak, longest = Counter[int](), 0, 0.0
    jobs = [(base, folder / str(n), seed * 10**6 + n) for n in range(stores)]
    with multiprocessing.get_context("forkserver").Pool(workers, _warm, maxtasksperchild=50) as pool:
        for found, codes_of, peak_of, longest_of in pool.imap_unordered(_trial, jobs):
            if len(found):
                print(*(f"{fault.seed}: {fault.words}: {fault.what}" for fault in found), sep="\n", flush=True)
            faults += found
            codes.update(codes_of)
            peak, longest = max(peak, peak_of), max(longest, longest_of)
    return faults, codes, peak, longest


def honest(folder: Path) -> Path:
    """Make the store that is mutated: 24 texts, a second version of the dataset, a tag, several generations."""
    folder.mkdir(parents=True)
    for name, corrected in (("posts.csv", 0), ("again/posts.csv", 3)):
        rows = ["id,text,label,split"]
        for n in range(24):
            label, part = LABELS[(n + (n < corrected)) % 3], ("train", "train", "valid", "test")[n // 6]
            rows.append(f"s{n},a {LABELS[n % 3]} text of number {n},{label},{part}")
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("\n".join(rows) + "\n")
    store = folder / "store"
    for words in (
        extract(folder / "posts.csv", store),
        ["cache", "tag", "first", "--store", str(store)],
        extract(folder / "again" / "posts.csv", store),
    ):
        done = subprocess.run([sys.executable, "-m", "msa.cli", *words], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{words}: {done.stdout}{done.stderr}")
    return folder


def extract(table: Path, store: Path) -> list[str]:
    """The words of an extraction that needs no weights."""
    root = ["--dataset", "table", "--root", str(table)]
    return ["extract", *root, "--store", str(store), "--preset", "classic", "--image", "none", "--engine", "serial"]


def _warm() -> None:
    """Import everything once."""
    import dask.array  # noqa: F401
    import h5py  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch
    import zarr  # noqa: F401

    from msa.cache.exchange import hdf5, mmsa, npy  # noqa: F401
    from msa.cache.share import sync  # noqa: F401
    from msa.commands import cache, fuse  # noqa: F401
    from msa.extract import pipeline  # noqa: F401
    from msa.fuse.heads import probe  # noqa: F401

    torch.set_num_threads(1)
    weight = torch.zeros(1, requires_grad=True)  # the first step of an optimizer imports much
    weight.sum().backward()
    torch.optim.AdamW([weight]).step()


def commands(store: Path, out: Path, base: Path) -> list[tuple[bool, list[str]]]:
    """(does it change the store?, words) of every command."""
    at, where, run = str(store), ["--store", str(store)], ["--out", str(out / "run")]
    of = ["--dataset", "posts"]
    return [
        (False, ["cache", "ls", *where]),
        (False, ["cache", "info", at]),
        (False, ["cache", "log", *where]),
        (False, ["cache", "diff", "1", "2", *where]),
        (False, ["cache", "verify", at]),
        (False, ["cache", "verify", at, "--deep"]),
        (False, ["cache", "clone", at, str(out / "clone")]),
        (False, ["cache", "pull", at, "--store", str(out / "pulled")]),
        (False, ["cache", "merge", at, "--store", str(out / "mine")]),
        (False, ["cache", "export", "npy", str(out / "npy"), *where, *of]),
        (False, ["cache", "export", "hdf5", str(out / "file.h5"), *where, *of]),
        (False, ["cache", "export", "mmsa", str(out / "file.pkl"), *where, *of]),
        (False, ["fuse", "train", "--model", "probe", "--seeds", "1", "--set", "epochs=1", *where, *run]),
        (True, ["cache", "merge", str(base / "store"), *where]),
        (True, ["cache", "push", str(out / "mine"), *where, "--i-may-share"]),
        (True, ["cache", "tag", "mine", *where]),
        (True, ["cache", "rollback", "1", "--yes", *where]),
        (True, ["cache", "gc", at, "--yes", "--grace", "0"]),
        (True, extract(base / "again" / "posts.csv", store)),
        (True, ["cache", "compact", *where]),
        (True, ["cache", "rm", "--dataset", "posts", "--now", "--yes", *where]),
        (True, ["cache", "repair", at, "--yes"]),
    ]  # fmt: skip


def _trial(job: tuple[Path, Path, int]) -> tuple[list[Fault], Counter[int], int, float]:
    base, folder, seed = job
    folder.mkdir()
    os.environ |= {"MSA_HOME": str(folder / "home"), "MSA_CACHE": str(folder / "mirror")}
    first, target, out = folder / "first", folder / "canary", folder / "out"
    store_changes.canary(target)
    before = store_changes.seen(target)
    shutil.copytree(base / "store", first)
    changes = tuple(store_changes.mutate(first, target, random.Random(seed)))
    faults: list[Fault] = []
    codes, peak, longest = Counter[int](), 0, 0.0
    out.mkdir()
    shutil.copytree(base / "store", out / "mine")
    store = folder / "store"
    _copied(first, store)
    for changing, words in commands(store, out, base):
        if changing:
            _remove(store)
            _copied(first, store)
        code, text, nbytes, seconds = run(words, folder / "said")
        codes[code] += 1
        peak, longest = max(peak, nbytes), max(longest, seconds)
        wrong = [
            "traceback" * ("Traceback" in text),
            f"exit code {code}" * (code not in (0, 1, CRASHED)),
            f"{nbytes / 1e6:.0f} MB" * (nbytes > MOST_BYTES),
            "escape sequence" * ("\x1b" in text),
            "the canary was touched" * (store_changes.seen(target) != before),
        ]
        faults += [Fault(seed, " ".join(words[:4]), what, changes, text) for what in wrong if what]
        if wrong[-1]:
            break
    _remove(folder)
    return faults, codes, peak, longest


def run(words: list[str], said: Path) -> tuple[int, str, int, float]:
    """Run a command in a fork of this process: exit code (-9: too long), output, most memory in bytes, seconds."""
    began = time.monotonic()
    child = os.fork()
    if not child:
        _command(words, said)
    ended, status, usage = 0, 0, None
    while not ended and time.monotonic() - began < MOST_S:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        time.sleep(0 if ended else 0.02)
    if not ended:
        os.killpg(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
    text = said.read_text("utf-8", "replace") if said.exists() else ""
    return os.waitstatus_to_exitcode(status), text, usage.ru_maxrss * 1024, time.monotonic() - began


def _command(words: list[str], said: Path) -> None:
    """In the child: never returns."""
    code = CRASHED
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
        os.dup2(1, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 2 * MOST_BYTES, now + 2 * MOST_BYTES))
        from msa import cli

        sys.argv = ["msa", *words]
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _copied(first: Path, store: Path) -> None:
    subprocess.run(["cp", "-a", "--sparse=always", str(first), str(store)], check=True)


def _remove(folder: Path) -> None:
    subprocess.run(["rm", "-rf", str(folder)], check=True)
