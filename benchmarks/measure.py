"""What the benchmarks share: timing, floors, peers, and how a result is printed.

Needs jax and numpy alone, so that a benchmark runs on a bare accelerator machine. A
peer that is not installed gives None and a line on stderr, never a failure.
"""

import argparse
import importlib
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser with the flags that every benchmark has."""
    flags = argparse.ArgumentParser(description=description)
    flags.add_argument("--json", action="store_true", help="one JSON object, no table")
    flags.add_argument("--repeats", type=int, default=5, help="timed calls; median")
    return flags


def seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """Returns the median wall time of a call, after one that compiles and warms up.

    Args:
        function: what to time; JAX arrays it returns are waited for.
        repeats: timed calls.
    """
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def seconds_in_turns(
    functions: dict[str, Callable[[], Any]], repeats: int = 5
) -> dict[str, float]:
    """Returns the shortest wall time of each call, all called in turns, to compare.

    What else the machine does then falls on all of them alike, and what slowed a call
    down is not what the call costs.

    Args:
        functions: what to time, by name; JAX arrays they return are waited for.
        repeats: timed calls of each, after one that compiles and warms up.
    """
    times = {name: [] for name in functions}
    for number in range(repeats + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            jax.block_until_ready(function())
            if number:
                times[name].append(time.perf_counter() - started)
    return {name: min(values) for name, values in times.items()}


def matmul_flops_per_second(dtype: str = "bfloat16", size: int | None = None) -> float:
    """Returns the measured rate of a square matrix product, the floor of compute.

    Args:
        dtype: of both factors.
        size: rows and columns; None: as large as keeps a device of this kind busy.
    """
    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    left = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda left, right: left @ right)
    return 2 * size**3 / seconds(lambda: product(left, left))


def memory_bytes_per_second(num_bytes: int = 1 << 30) -> float:
    """Returns the measured bandwidth of device memory: bytes read and written."""
    values = jnp.zeros(num_bytes // 4, jnp.float32) + jax.random.normal(
        jax.random.key(0), (1,)
    )
    add = jax.jit(lambda values: values + 1)
    return 2 * num_bytes / seconds(lambda: add(values))


def read_bytes_per_second(num_bytes: int = 1 << 30) -> float:
    """Returns the measured bandwidth of reading device memory: a sum of it all."""
    values = jax.random.normal(jax.random.key(0), (num_bytes // 4,))
    total = jax.jit(jnp.sum)
    return num_bytes / seconds(lambda: total(values))


def find_peer(module: str):
    """Returns a module to compare with, or None with a line on how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        sys.stderr.write(f"{module} is not installed, so not compared: `make bench`.\n")
        return None


def environment() -> dict[str, str]:
    """Returns what a figure depends on: device, versions, commit."""
    device = jax.devices()[0]
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "device": f"{len(jax.devices())} x {device.device_kind}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "commit": commit,
        "command": " ".join(["python", *sys.argv]),
    }


def show(result: dict[str, Any], *, as_json: bool) -> None:
    """Prints a result, a dictionary of figures, as JSON or one a line."""
    result = {**result, **environment()}
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        text = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{name:28} {text}")
