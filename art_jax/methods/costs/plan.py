"""The whole plan of a run: memory, time and disk together; what to change to fit."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from art_jax.errors import ConfigError
from art_jax.hardware import DeviceKind
from art_jax.methods.costs import disk, memory, sizes, work
from art_jax.methods.costs.sizes import Cluster, RunSizes

MOST_DEVICES = 4096


def plan_run(run: RunSizes, cluster: Cluster) -> dict[str, Any]:
    """Returns the whole plan as JSON values; bytes and seconds are of one device.

    Raises:
        ConfigError: the cluster cannot split the run's sizes.
    """
    sizes.check_sizes(run, cluster)
    refresh = work.refresh_work(run, cluster)
    refresh_seconds = refresh.seconds(cluster)
    stages = []
    for index, stage in enumerate(run.stages):
        held = memory.stage_memory(run, index, cluster)
        parts = work.step_work(run, stage, cluster)
        seconds = {name: part.seconds(cluster) for name, part in parts.items()}
        step_seconds = sum(seconds.values())
        refreshes = sizes.num_refreshes(stage)
        total = stage.train_steps * step_seconds + refreshes * refresh_seconds
        stages.append(
            {
                "name": stage.name,
                "memory": {
                    "held": dict(held.held),
                    "phases": {name: dict(p) for name, p in held.phases.items()},
                    "peak": held.peak_bytes,
                },
                "step": {
                    name: {
                        "flops": part.flops,
                        "memory_bytes": part.memory_bytes,
                        "link_bytes": part.link_bytes,
                        "seconds": seconds[name],
                    }
                    for name, part in parts.items()
                },
                "step_seconds": step_seconds,
                "steps": stage.train_steps,
                "refreshes": refreshes,
                "refresh_share": refreshes * refresh_seconds / total,
                "hours": total / 3600,
            }
        )
    peak = max(stage["memory"]["peak"] for stage in stages)
    return {
        "device": cluster.kind.name,
        "num_devices": cluster.num_devices,
        "model_parallelism": cluster.model_parallelism,
        "mfu": cluster.matmul_share,
        "bandwidth_share": cluster.bandwidth_share,
        "device_bytes": cluster.kind.memory_bytes,
        "usable_bytes": cluster.usable_bytes,
        "peak_bytes": peak,
        "fits": peak <= cluster.usable_bytes,
        "remedies": [] if peak <= cluster.usable_bytes else find_remedies(run, cluster),
        "stages": stages,
        "refresh": {
            "flops": refresh.flops,
            "seconds": refresh_seconds,
            "padding_share": sizes.padding_share(run),
            "passages": run.evidence.num_rows,
        },
        "hours": sum(stage["hours"] for stage in stages),
        "disk_bytes": disk.run_bytes(run, cluster),
        "checkpoint_bytes": [
            disk.checkpoint_bytes(run, s, cluster) for s in run.stages
        ],
    }


def peak_bytes(run: RunSizes, cluster: Cluster) -> int:
    """Returns the most memory any stage takes of a device."""
    return max(
        memory.stage_memory(run, index, cluster).peak_bytes
        for index in range(len(run.stages))
    )


def fits(run: RunSizes, cluster: Cluster) -> bool:
    """Whether the cluster can split the run's sizes, and every stage fits."""
    try:
        sizes.check_sizes(run, cluster)
    except ConfigError:
        return False
    return peak_bytes(run, cluster) <= cluster.usable_bytes


def find_remedies(run: RunSizes, cluster: Cluster) -> list[dict[str, Any]]:
    """Returns changes that make the run take less, those that suffice first.

    Of each kind of change the least that suffices, or the most that can be done.
    """
    before = peak_bytes(run, cluster)
    found = []
    for changes in _changes(run, cluster):
        best = None
        for words, changed_run, changed_cluster in changes:
            try:
                sizes.check_sizes(changed_run, changed_cluster)
            except ConfigError:
                continue
            peak = peak_bytes(changed_run, changed_cluster)
            suffices = peak <= changed_cluster.usable_bytes
            if peak < before:
                best = {"change": words, "peak_bytes": peak, "fits": suffices}
            if suffices:
                break
        if best is not None:
            found.append(best)
    return sorted(found, key=lambda remedy: (not remedy["fits"], remedy["peak_bytes"]))


def _changes(
    run: RunSizes, cluster: Cluster
) -> Iterator[list[tuple[str, RunSizes, Cluster]]]:
    """Kinds of change, the gentler first: in words, and what each makes of both."""

    def change_stages(**changes) -> RunSizes:
        stages = tuple(dataclasses.replace(s, **changes) for s in run.stages)
        return dataclasses.replace(run, stages=stages)

    if not run.stream_tokens:
        streamed = dataclasses.replace(run, stream_tokens=True)
        yield [("STREAM_TOKENS = True", streamed, cluster)]
    config = run.encoder.config
    if not config.remat:
        config = dataclasses.replace(config, remat=True)
        encoder = dataclasses.replace(run.encoder, config=config)
        again = dataclasses.replace(run, encoder=encoder)
        yield [("BertConfig.remat = True", again, cluster)]
    if not any(stage.rolling_refresh for stage in run.stages):
        rolling = change_stages(rolling_refresh=True)
        yield [("Stage.rolling_refresh = True", rolling, cluster)]
    most = max(stage.num_chunks for stage in run.stages)
    if all(stage.teacher is not None for stage in run.stages):
        yield [
            (f"NUM_MICROBATCHES = {chunks}", change_stages(num_chunks=chunks), cluster)
            for chunks in (2 * most, 4 * most, 8 * most)
        ]
    models = [cluster.model_parallelism * factor for factor in (2, 4, 8)]
    yield [
        (
            f"MODEL_PARALLELISM = {model}",
            run,
            dataclasses.replace(cluster, model_parallelism=model),
        )
        for model in models
        if cluster.num_devices % model == 0
    ]
    numbers = [cluster.num_devices * factor for factor in (2, 4, 8, 16)]
    yield [
        (f"{number} devices", run, dataclasses.replace(cluster, num_devices=number))
        for number in numbers
    ]


def plan_smallest(
    run: RunSizes,
    kind: DeviceKind,
    model_parallelism: int | None,
    shares: Mapping[str, float],
) -> dict[str, Any] | None:
    """Returns the plan of the fewest devices of a kind that the run fits, or None.

    Numbers of devices are powers of two, times `model_parallelism`.

    Args:
        run: to plan.
        kind: of the devices.
        model_parallelism: as it must be; None: the least with which it fits.
        shares: of the data sheet, see `Cluster`.
    """
    for power in range(MOST_DEVICES.bit_length()):
        num_devices = (model_parallelism or 1) << power
        models = [model_parallelism] if model_parallelism else _powers(num_devices)
        for model in models:
            cluster = Cluster(kind, num_devices, model, **shares)
            if fits(run, cluster):
                return plan_run(run, cluster)
    return None


def _powers(most: int) -> list[int]:
    """Powers of two up to `most`, itself one."""
    return [1 << power for power in range(most.bit_length())]
