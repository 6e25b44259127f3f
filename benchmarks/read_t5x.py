"""How fast a T5X checkpoint goes onto devices, and how much host memory that takes.

    python benchmarks/read_t5x.py --gigabytes 2 [--devices 8 --model-parallelism 4]

Writes a T5 of the width of v1.1 large, as many layers as fill the size, with save_t5,
then loads it in a fresh process for each of:

    art_jax   open_t5 and to_devices, a tensor at a time
    whole     the tree as NumPy arrays first, then every array onto the devices
    floor     the bytes of the files, read and dropped
    gunzip    the same, and inflated by zlib, one thread a core: any reader's work

Before each, the files are dropped from the page cache. Devices are those JAX has: of a
CPU, as many fake ones as asked for, whose memory is host memory too. So this is what is
counted: `peak` is how far the process's largest resident size (ru_maxrss) lies above
what it was before loading; `device` the bytes of distinct buffers that the loaded
arrays lie in, where those are in host memory; `host` the difference, what loading took
beside its result. Where a device takes over a NumPy array as it is, that counts as the
device's.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import zlib

WIDTHS = {"emb_dim": 1024, "num_heads": 16, "head_dim": 64, "mlp_dim": 2816}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--model-parallelism", type=int, default=1)
    parser.add_argument("--dtype", default="float32", help="on the devices")
    parser.add_argument("--scanned", action="store_true")
    parser.add_argument("--folder", help="to write into; default: a temporary one")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        measured = LOADERS[args.load](pathlib.Path(args.folder), args)
        print(json.dumps(measured))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as parent:
        folder = pathlib.Path(parent) / "checkpoint_0"
        saved = run("save", folder, args)
        largest = saved["largest"]
        num_bytes = sum(file.stat().st_size for file in files_of(folder))
        print(
            f"{num_bytes / 1e9:.2f} GB in {len(files_of(folder))} files, largest array "
            f"{largest / 1e9:.3f} GB; {args.devices} devices, model parallelism "
            f"{args.model_parallelism}, {args.dtype} on the devices\n"
            f"drawn and saved in {saved['seconds']:.1f} s, peak "
            f"{saved['peak'] / 1e9:.3f} GB, {saved['peak'] / largest:.2f} x largest"
        )
        results = {name: run(name, folder, args) for name in LOADERS if name != "save"}
    print(f"{'':10}{'s':>8}{'GB/s':>8}{'x floor':>9}{'x gunzip':>10}", end="")
    print(f"{'peak GB':>9}{'device GB':>11}{'host GB':>9}{'x largest':>11}")
    for name, result in results.items():
        seconds = result["seconds"]
        print(f"{name:10}{seconds:8.2f}{num_bytes / 1e9 / seconds:8.2f}", end="")
        for floor in ("floor", "gunzip"):
            ratio = seconds / results[floor]["seconds"]
            print(f"{ratio:{9 if floor == 'floor' else 10}.2f}", end="")
        if "peak" in result:
            host = result["peak"] - result["device"]
            sizes = result["peak"] / 1e9, result["device"] / 1e9, host / 1e9
            print("{:9.3f}{:11.3f}{:9.3f}".format(*sizes), end="")
            print(f"{host / largest:11.2f}", end="")
        print()


def run(name: str, folder: pathlib.Path, args: argparse.Namespace) -> dict:
    """What a fresh process measures."""
    for file in files_of(folder):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())  # Only what is on disk can be dropped.
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, __file__, *sys.argv[1:]]
    command += ["--load", name, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def save(folder: pathlib.Path, args: argparse.Namespace) -> dict:
    """Writes the checkpoint, of normal numbers made as they are asked for."""
    import jax
    import numpy as np

    from art_jax.checkpoints import t5x, t5x_export, tensors
    from art_jax.models import t5

    def config(num_layers: int) -> t5.T5Config:
        layers = {"num_encoder_layers": num_layers, "num_decoder_layers": num_layers}
        return t5.T5Config(**WIDTHS, **layers)

    def num_bytes(num_layers: int) -> int:
        leaves = jax.tree.leaves(t5.param_shapes(config(num_layers)))
        return 4 * sum(leaf.size for leaf in leaves)

    first, second = num_bytes(1), num_bytes(2)
    wanted = round(1 + (args.gigabytes * 1e9 - first) / (second - first))
    made = config(max(1, wanted))
    rng = np.random.default_rng(0)

    def drawn(leaf) -> tensors.FileTensor:
        def read(index: tensors.Index) -> np.ndarray:
            sizes = [part.stop - part.start for part in index]
            return rng.standard_normal(sizes, np.float32)

        return tensors.FileTensor(leaf.shape, np.dtype("float32"), read)

    params = jax.tree.map(drawn, t5.param_shapes(made))
    before, start = peak_bytes(), time.perf_counter()
    t5x_export.save_t5(folder, made, params, step=0, scanned=args.scanned)
    seconds, peak = time.perf_counter() - start, peak_bytes() - before
    leaves = jax.tree.leaves(t5x.open_t5x(folder)["target"])
    largest = 4 * max(leaf.size for leaf in leaves)
    return {"seconds": seconds, "peak": peak, "largest": largest}


def load(folder: pathlib.Path, args: argparse.Namespace, *, whole: bool) -> dict:
    """Loads the checkpoint onto a mesh."""
    import jax

    from art_jax import partitioning
    from art_jax.checkpoints import t5x, tensors
    from art_jax.models import layers

    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", args.devices)
    mesh = partitioning.make_mesh(
        args.devices, model_parallelism=args.model_parallelism
    )
    # What JAX takes once is no part of loading.
    jax.block_until_ready(jax.device_put(0.0, partitioning.replicated(mesh)))
    before, start = peak_bytes(), time.perf_counter()
    _, params = t5x.open_t5(folder)
    shardings = jax.tree.map(
        lambda _, axes: partitioning.logical_sharding(axes, mesh),
        params,
        layers.param_axes(params),
    )
    if whole:
        params = tensors.to_host(params, args.dtype)
    params = tensors.to_devices(params, shardings, args.dtype)
    seconds = time.perf_counter() - start
    in_host_memory = jax.default_backend() == "cpu"
    buffers = {
        shard.data.unsafe_buffer_pointer(): shard.data.nbytes
        for leaf in jax.tree.leaves(params)
        for shard in leaf.addressable_shards
    }
    return {
        "seconds": seconds,
        "peak": peak_bytes() - before,
        "device": sum(buffers.values()) if in_host_memory else 0,
    }


def read_bytes(folder: pathlib.Path, args: argparse.Namespace, *, inflate: bool):
    """Reads every file and drops what it holds."""

    def read(file: pathlib.Path) -> None:
        inflater = zlib.decompressobj(wbits=31) if inflate else None
        with file.open("rb", buffering=0) as opened:
            while data := opened.read(2**20):
                if inflater and file.name[0].isdigit():
                    inflater.decompress(data)

    threads = len(os.sched_getaffinity(0)) if inflate else 1
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, files_of(folder)))
    return {"seconds": time.perf_counter() - start}


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


LOADERS = {
    "save": save,
    "art_jax": lambda folder, args: load(folder, args, whole=False),
    "whole": lambda folder, args: load(folder, args, whole=True),
    "floor": lambda folder, args: read_bytes(folder, args, inflate=False),
    "gunzip": lambda folder, args: read_bytes(folder, args, inflate=True),
}

if __name__ == "__main__":
    main()
