"""Time a served model: ``python benchmarks/serving/run.py [MODEL] [--seconds S] [--side PX]``.

Starts ``mlflow models serve`` with several settings of processes and threads and asks for maps of both sizes from 1, 4
and 16 clients on loopback, each as fast as it is answered, for some seconds and no more than 1,000 times a row. The
clients run on the same cores as the server. MLflow's store is that of MLFLOW_TRACKING_URI, else of ``make repro``. Two
minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import soundfile
from PIL import Image

_MAP_SIZES = ("frame", "grid")
_CLIENTS = (1, 4, 16)
_MOST = 1000


def request(side: int, map_size: str) -> bytes:
    """One row: a JPEG of noise, ``side`` px square, and a second of noise at 16 kHz, in base64; and what is wanted."""
    rng = np.random.default_rng(0)
    picture, sound = io.BytesIO(), io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(picture, "JPEG")
    soundfile.write(sound, 0.1 * rng.standard_normal(16000), 16000, format="WAV")
    row = {"frame": picture, "audio": sound}
    texts = {name: base64.b64encode(buffer.getvalue()).decode() for name, buffer in row.items()}
    return json.dumps({"dataframe_records": [texts], "params": {"map_size": map_size}}).encode()


@contextmanager
def served(model: str, workers: int, threads: int) -> Iterator[tuple[int, psutil.Process]]:
    """Start a scoring server in separate processes; yields its port and the first of them.

    Raises:
        RuntimeError: it does not come up in two minutes; tells what it said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    binaries = Path(sys.executable).parent
    environment = {"MLFLOW_TRACKING_URI": "sqlite:///outputs/mlflow/mlflow.db"} | dict(os.environ)
    environment |= {
        "OMP_NUM_THREADS": str(threads),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
    }
    command = [str(binaries / "mlflow"), "models", "serve", "-m", model, "--env-manager", "local"]
    command += ["--port", str(port), "--workers", str(workers)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 120
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"the server of {model} does not answer: {log.read()}")
                time.sleep(0.2)
            yield port, psutil.Process(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)


def cpu_seconds(server: psutil.Process) -> float:
    """What a server's processes have used until now."""
    times = [member.cpu_times() for member in (server, *server.children(recursive=True))]
    return float(sum(time.user + time.system for time in times))


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def ask(port: int, body: bytes, clients: int, seconds: float) -> tuple[list[float], float, int]:
    """Send the same request again and again from several clients, each on its own connection.

    Returns:
        Every answer's latency in s, how long all of it took, s, and an answer's bytes.

    Raises:
        RuntimeError: an answer is no success.
    """
    latencies: list[float] = []
    failures: list[str] = []
    lengths: set[int] = set()
    stop = time.perf_counter() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while time.perf_counter() < stop and not failures and len(latencies) < _MOST:
            start = time.perf_counter()
            connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            told = answer.read()
            latencies.append(time.perf_counter() - start)
            lengths.add(len(told))
            if answer.status != 200:
                failures.append(told[:300].decode(errors="replace"))
        connection.close()

    begin = time.perf_counter()
    crowd = [threading.Thread(target=client) for _ in range(clients)]
    for member in crowd:
        member.start()
    for member in crowd:
        member.join()
    if failures:
        raise RuntimeError(f"the server refused: {failures[0]}")
    return latencies, time.perf_counter() - begin, max(lengths)


def main() -> None:
    """Measure every setting and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="models:/avsl-synthetic-ratio-0.03@champion")
    parser.add_argument("--seconds", type=float, default=4.0, help="of asking, for each row (default: %(default)s)")
    parser.add_argument("--side", type=int, default=224, help="of the frame, px (default: %(default)s)")
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    bodies = {size: request(options.side, size) for size in _MAP_SIZES}
    print(f"{options.model}, frames of {options.side} px, {options.seconds:g} s of asking a row;")
    print(f"{cores} cores, at the start with a load of {os.getloadavg()[0]:.1f}\n")
    heads = ("processes", "threads of each", "map", "answer (KiB)", "clients", "p50 (ms)", "p95 (ms)", "requests/s")
    print("| " + " | ".join((*heads, "CPU of the server (ms/request)")) + " |")
    print("| --- " * (len(heads) + 1) + "|")
    for workers, threads in dict.fromkeys([(1, 1), (1, cores), (cores, 1)]):
        with served(options.model, workers, threads) as (port, server):
            for size, body in bodies.items():
                # The first calls of every process are slow.
                ask(port, body, 2 * workers, 1.0)
                for clients in _CLIENTS:
                    before = cpu_seconds(server)
                    latencies, took, length = ask(port, body, clients, options.seconds)
                    cost = 1000 * (cpu_seconds(server) - before) / len(latencies)
                    middle, late = 1000 * np.percentile(latencies, (50, 95))
                    setting = f"{workers} | {threads} | {size} | {length / 1024:.0f} | {clients}"
                    figures = f"{middle:.0f} | {late:.0f} | {len(latencies) / took:.1f} | {cost:.0f}"
                    print(f"| {setting} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
