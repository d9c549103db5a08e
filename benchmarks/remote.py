"""Reading a store from afar: msa's block cache against zarr-python over obstore, in the same run, taking turns.

python -m benchmarks.remote [PART ...] [--quick]

Random batches of 16 and 64 samples that were not read before, over HTTP (nginx on loopback, as it is and with every
request held back for 20 ms by a proxy) and from S3 (moto on loopback); then what push and pull make of a store.
The proxy stands in for `tc netem`, which needs rights that containers do not have: it delays requests, not packets.
"""

import argparse
import asyncio
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.extract import machine
from benchmarks.extraction.measure import Row
from benchmarks.storage.made import corpus
from msa.cache.store import FeatureStore
from msa.cache.write.segment import Form
from msa.types import Modality

WIDTH, LONGEST, SEED = 768, 64, 0  # rows of 5 to 64, as texts have
VIEW = "b" * 16
TARGETS = {0: 1.8, 20: 2.3}  # ms of delay -> times the samples per second of zarr-python over obstore
KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_REGION": "us-east-1"}
Read = Callable[[np.ndarray], list[np.ndarray]]


def main(words: list[str] | None = None) -> None:
    """Measure the parts that are asked for, or all, and print a row for each target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--quick", action="store_true", help="few and short: to see that it runs, not for figures")
    asked = parser.parse_args(words or [])
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    print(machine())
    print("\n" + " | ".join(Row.HEAD), flush=True)
    with tempfile.TemporaryDirectory(prefix="msa-bench-") as folder:
        os.environ["MSA_CACHE"] = f"{folder}/cache"
        source = made(Path(folder) / "store", 400 if asked.quick else 6000)
        for name in asked.parts or PARTS:
            for row in PARTS[name](source, Path(folder), asked.quick):
                print(row, flush=True)


def made(path: Path, samples: int) -> FeatureStore:
    """A store of one view, as `msa extract` writes it."""
    chance = np.random.default_rng(SEED)
    digests = np.arange(2 * samples, dtype=np.uint64).reshape(samples, 2).view(np.uint8)  # (n, 16), all different
    store = FeatureStore.create(path)
    dataset = store.add_index(corpus(digests))
    store.add_view(VIEW, {"modality": Modality.TEXT, "backbone": "random", "dim": WIDTH, "dtype": "float16"})
    writer = store.writer(VIEW, dataset, Form.of(WIDTH, "float16"), {})
    for i in range(samples):
        rows = chance.standard_normal((int(chance.integers(5, LONGEST + 1)), WIDTH), np.float32).astype(np.float16)
        writer.write(i, digests[i].tobytes(), rows)
    store.publish(VIEW, [entry for entry in [writer.seal()] if entry])
    return store


def http(source: FeatureStore, folder: Path, quick: bool) -> Iterator[Row]:
    """Batches over HTTP ranges, without and with delay."""
    if shutil.which("nginx") is None:
        return print("http: skipped, nginx is not installed")
    with nginx(folder) as port:
        for delay in TARGETS:
            with held_back(port, delay) if delay else nothing(port) as reached:
                url = f"http://127.0.0.1:{reached}/{source.path.name}"
                yield from batches(source, url, f"HTTP, {delay} ms", TARGETS[delay], quick)


def s3(source: FeatureStore, folder: Path, quick: bool) -> Iterator[Row]:
    """The same from S3, a little of it: moto is one Python process that reads a whole object for every range of it."""
    from msa.cache.share import sync

    source = source if quick else made(folder / "small", 400)
    with moto() as endpoint:
        os.environ.update(KEYS, AWS_ENDPOINT_URL=endpoint)
        sync.push(source, "s3://lab/store")
        yield from batches(source, "s3://lab/store", "S3 (moto)", None, quick=True)
        yield from handing_on(source, folder)


def batches(source: FeatureStore, url: str, where: str, least: float | None, quick: bool) -> Iterator[Row]:
    """Samples per second in random batches, each read for the first time, after one that connects."""
    local = source.reader(source.view("bench", Modality.TEXT))
    chance, rounds = np.random.default_rng(SEED), 2 if quick else 7
    for size in (16, 64):
        many = 192 if quick else 512
        rates: dict[str, list[float]] = {"msa": [], "zarr": []}
        for _ in range(rounds):
            wanted = chance.permutation(len(local.length))[:many].reshape(-1, size)
            for name in chance.permutation(list(rates)).tolist():
                read = ours(url) if name == "msa" else zarrs(source, url)
                batches = [read(wanted[0])]
                began = time.perf_counter()
                batches += [read(rows) for rows in wanted[1:]]
                rates[name].append(wanted[1:].size / (time.perf_counter() - began))
                for rows, states in zip(wanted, batches, strict=True):
                    for row, one in zip(rows, states, strict=True):
                        assert np.array_equal(one, local.read(int(row)))
        ours_, theirs = (statistics.median(rates[name]) for name in ("msa", "zarr"))
        yield Row.of_rates(f"{where}, batches of {size}", ours_, theirs, least, "samples/s", "zarr over obstore")


def ours(url: str) -> Read:
    """Our reader over an empty block cache; the tables are there, as they are after the store was opened."""
    shutil.rmtree(os.environ["MSA_CACHE"], ignore_errors=True)
    store = FeatureStore.open(url)
    reader = store.reader(store.view("bench", Modality.TEXT))
    reader.length  # noqa: B018

    def read(rows: np.ndarray) -> list[np.ndarray]:
        x, length = reader.gather(rows)
        return [one[:n] for one, n in zip(x, length, strict=True)]

    return read


def zarrs(source: FeatureStore, url: str) -> Read:
    """zarr-python over obstore, all samples of a batch asked for at once; where they lie is known beforehand."""
    import zarr
    from zarr.storage import ObjectStore

    from msa.cache.format import layout
    from msa.cache.storage import site as remote

    zarr.config.set({"async.concurrency": 64})
    (entry,) = source.manifest.views[VIEW].segments
    home = source.path / "views" / VIEW / "seg" / entry.id
    start, length = (layout.read_array(home / name) for name in ("start", "length"))
    site = remote.connect(url)
    path = f"views/{VIEW}/seg/{entry.id}/data"
    array = zarr.open_array(ObjectStore(site.store, read_only=True), path=path, mode="r")

    async def gather(rows: np.ndarray) -> list[Any]:
        return await asyncio.gather(
            *(array.async_array.getitem(slice(int(start[i]), int(start[i] + length[i]))) for i in rows)
        )

    return lambda rows: list(zarr.core.sync.sync(gather(rows)))


def handing_on(source: FeatureStore, folder: Path) -> Iterator[Row]:
    """Push and pull beside copying the same bytes on this disk; and what a second pull moves."""
    from msa.cache.share import sync

    began = time.perf_counter()
    shutil.copytree(source.path, folder / "copied")
    copied = time.perf_counter() - began
    began = time.perf_counter()
    sent = sync.push(source, "s3://lab/pushed")
    pushed = time.perf_counter() - began
    began = time.perf_counter()
    sync.pull("s3://lab/pushed", folder / "pulled")
    pulled = time.perf_counter() - began
    again = sync.pull("s3://lab/pushed", folder / "pulled")
    megabytes = sent.bytes / 1e6
    for what, seconds in {"push to": pushed, "pull from": pulled}.items():
        yield Row.of_rates(f"{what} S3 (moto)", megabytes / seconds, megabytes / copied, None, "MB/s", "plain copy")
    yield Row("a second pull moves", f"{again.bytes} B", f"{sent.bytes} B, the first", "", "0", again.bytes == 0)


@contextmanager
def nothing(port: int) -> Iterator[int]:
    """No delay."""
    yield port


@contextmanager
def held_back(port: int, delay_ms: int) -> Iterator[int]:
    """A port that leads to another, a little later: a proxy in a process of its own."""
    reached = free_port()
    proxy = multiprocessing.get_context("spawn").Process(
        target=relay, args=(reached, port, delay_ms / 1e3), daemon=True
    )
    proxy.start()
    try:
        wait_for(reached)
        yield reached
    finally:
        proxy.kill()
        proxy.join()


def relay(reached: int, port: int, delay_s: float) -> None:
    """Pass on what clients send `delay_s` later, and at once what the server answers."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float) -> None:
        while data := await reader.read(1 << 20):
            await asyncio.sleep(pause)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up, down = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, down, delay_s), pump(up, writer, 0), return_exceptions=True)

    async def serve() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", reached, limit=1 << 20, backlog=512)
        await server.serve_forever()

    asyncio.run(serve())


@contextmanager
def nginx(folder: Path) -> Iterator[int]:
    """nginx on loopback, with a folder as its root."""
    port, home = free_port(), folder / "nginx"
    home.mkdir()
    temporary = "".join(f"{kind}_temp_path {home}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    owner = "user root;" if os.geteuid() == 0 else ""  # the folder is ours alone
    (home / "nginx.conf").write_text(
        f"{owner} daemon off; pid {home}/pid; error_log {home}/error.log; worker_processes 1;"
        "events { worker_connections 1024; }"
        f"http {{ access_log off; client_body_temp_path {home}/body; {temporary} keepalive_requests 1000000;"
        f"sendfile on; tcp_nodelay on; server {{ listen 127.0.0.1:{port}; root {folder}; }} }}"
    )
    server = subprocess.Popen(["nginx", "-c", str(home / "nginx.conf")], stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield port
    finally:
        server.terminate()
        server.wait()


@contextmanager
def moto() -> Iterator[str]:
    """An S3 server on loopback with a bucket called `lab`."""
    port = free_port()
    words = ["-c", "import sys; from moto.server import main; main(sys.argv[1:])", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        bucket = urllib.request.Request(f"http://127.0.0.1:{port}/lab", method="PUT")
        urllib.request.urlopen(bucket, timeout=60).close()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def free_port() -> int:
    """A free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(port: int) -> None:
    """Return when a server listens at a port."""
    for _ in range(1200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"error: no server listens at port {port}")


PARTS: dict[str, Callable[[FeatureStore, Path, bool], Iterator[Row]]] = {"http": http, "s3": s3}

if __name__ == "__main__":
    main(sys.argv[1:])
