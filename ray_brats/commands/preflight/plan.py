"""`plan`: hours, memory, storage and cost of a cohort on given nodes, with the arithmetic shown.

Every figure comes from the table of rates (`rates.toml`, or the user's); what nobody measured is
said to be unknown, never guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from ray_brats.cases import cohort as cohorts
from ray_brats.commands.preflight import rates as tables
from ray_brats.commands.preflight.rates import Rate, Rates
from ray_brats.engine import capacity
from ray_brats.engine.cluster import Resources
from ray_brats.errors import UsageError
from ray_brats.labels import Release
from ray_brats.progress import say
from ray_brats.recipes import costs, named
from ray_brats.recipes.config import Recipe
from ray_brats.recipes.named import RecipeName
from ray_brats.stages import preprocess

CohortArgument = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="COHORT")]
NodesOption = Annotated[tuple[str, ...], tyro.conf.arg(metavar='"N x(8cpu,1gpu,32GiB)@PRICE"')]
GIB = 1 << 30
MOST_NODES = 10_000
_NODES = re.compile(r"(\d{1,9})x\((.*)\)(?:@(\d{1,9}(?:\.\d+)?))?")
_PART = re.compile(r"(\d{1,9}(?:\.\d+)?)(cpu|gpu|gib)")


@dataclass(frozen=True, kw_only=True)
class NodeGroup:
    """Equal nodes; `price` is in a currency of the user's for one node and hour."""

    count: int
    cpus: int
    gpus: int
    memory_bytes: int
    price: float | None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One stage: `hours` is None where a rate is not measured."""

    stage: str
    hours: float | None
    arithmetic: str
    memory: str
    storage_gb: float


def plan(
    cohort: CohortArgument = None,
    /,
    *,
    nodes: NodesOption,
    cases: int | None = None,
    recipe: RecipeName = "standard",
    steps: int | None = None,
    workers: int | None = None,
    rates: str | None = None,
    release: Release | None = None,
) -> dict[str, Any]:
    """Estimate hours, memory, storage and cost of preprocess, train and score.

    Args:
        cohort: Folder, s3:// prefix or CSV, whose cases are counted.
        nodes: Groups of equal nodes, as "4x(8cpu,1gpu,32GiB)"; @PRICE behind it is that of one
            node and hour.
        cases: How many, instead of a cohort.
        recipe: Its network and length of training.
        steps: Length of training in optimizer steps, instead of the recipe's.
        workers: Training processes; by default as train chooses.
        rates: TOML table of rates, instead of the one that ships with ray-brats.
        release: What the labels mean, where file names do not tell.
    """
    groups = [parse_nodes(text) for text in nodes]
    if not groups:
        raise UsageError('--nodes: expected groups of nodes, as "4x(8cpu,1gpu,32GiB)"')
    if (cohort is None) == (cases is None):
        raise UsageError("expected either COHORT or --cases N, to know how many cases there are")
    chosen = named.get(recipe, steps=steps)
    if cohort is not None:
        wanted = set(chosen.preprocess.modalities)
        found = cohorts.find(cohort, release=release)
        cases = sum(wanted <= set(case.images) for case in found.cases)
        left_out = len(found.cases) + len(found.rejected) - cases
        if left_out:
            say(f"plan: {left_out} case(s) are not usable and not counted (`ray-brats check`)")
    if cases is None or not 1 <= cases <= tables.MOST:
        raise UsageError(f"{cases} case(s): expected 1 to {tables.MOST:,}")
    if steps is not None and steps > tables.MOST:
        raise UsageError(f"--steps {steps}: expected at most {tables.MOST:,}")
    table = tables.read(rates)
    if sum(group.count for group in groups) > MOST_NODES:
        raise UsageError(f"--nodes: expected at most {MOST_NODES:,} nodes")
    there = total(groups)
    made = [
        preprocessing(cases, there, chosen, table),
        training(chosen, there, table, workers),
        scoring(cases, there, chosen, table),
    ]
    return _summary(cases, groups, made, table)


def parse_nodes(text: str) -> NodeGroup:
    """`4x(8cpu,1gpu,32GiB)@1.2`; GPUs and the price may be left out.

    Raises:
        UsageError: anything else.
    """
    wrong = UsageError(
        f'--nodes {text}: expected "4x(8cpu,1gpu,32GiB)", perhaps with @PRICE for a node and hour'
    )
    match = _NODES.fullmatch(re.sub(r"\s", "", text).lower())
    if match is None:
        raise wrong
    count, inside, price = match.groups()
    parts: dict[str, float] = {}
    for part in inside.split(","):
        found = _PART.fullmatch(part)
        if found is None or found[2] in parts:
            raise wrong
        parts[found[2]] = float(found[1])
    whole = all(parts.get(unit, 0).is_integer() for unit in ("cpu", "gpu") if unit in parts)
    if not whole or int(count) < 1 or parts.get("cpu", 0) < 1 or parts.get("gib", 0) <= 0:
        raise wrong
    return NodeGroup(
        count=int(count),
        cpus=int(parts["cpu"]),
        gpus=int(parts.get("gpu", 0)),
        memory_bytes=int(parts["gib"] * GIB),
        price=None if price is None else float(price),
    )


def total(groups: Sequence[NodeGroup]) -> Resources:
    """All nodes together, as the stages see a cluster."""
    return Resources(
        cpus=sum(group.count * group.cpus for group in groups),
        gpus=sum(group.count * group.gpus for group in groups),
        node_cpus=max(group.cpus for group in groups),
        node_memory_bytes=max(group.memory_bytes for group in groups),
        memory_bytes=sum(group.count * group.memory_bytes for group in groups),
        nodes=sum(group.count for group in groups),
        shapes=tuple((group.cpus, group.gpus) for group in groups for _ in range(group.count)),
    )


def preprocessing(cases: int, there: Resources, recipe: Recipe, table: Rates) -> Estimate:
    """A task a core, and no more than the memory allows."""
    rate = table.find("preprocess", recipe.name, "cpu")
    fitting = there.memory_bytes // preprocess.TASK_MEMORY_BYTES
    tasks = max(1, min(cases, there.cpus, fitting))
    hours, shown = _hours(f"{cases:,} cases", cases, rate, "core-s", tasks, "tasks at a time")
    return Estimate(
        stage="preprocess",
        hours=hours,
        arithmetic=shown,
        memory=f"{tasks:,} tasks × {_gib(preprocess.TASK_MEMORY_BYTES)}",
        storage_gb=cases * table.storage_mb["dataset"] / 1000,
    )


def training(
    recipe: Recipe, there: Resources, table: Rates, workers: int | None = None
) -> Estimate:
    """Every worker makes every step: more workers see more patches in the same time."""
    count = capacity.workers_for(workers, there)
    rate = table.find("train", recipe.name, "gpu" if there.gpus else "cpu")
    placed = capacity.cpus_of_worker(count, there)
    cores = 1 if there.gpus else placed
    settings = recipe.train
    made = (settings.steps or 0) * settings.batch_per_worker * settings.accumulate
    told = f"{settings.steps:,} steps × {settings.batch_per_worker * settings.accumulate} patch(es)"
    unit = "GPU-s" if there.gpus else "core-s"
    per = "GPU" if there.gpus else "core(s) of a worker"
    hours, shown = _hours(told, made, rate, unit, cores, per)
    memory = f"{count} worker(s) × {_gib(costs.training_bytes(recipe))}"
    memory += _beyond(-(-count // there.nodes) * costs.training_bytes(recipe), there)
    if there.gpus:
        memory += "; GPU memory not measured"
    return Estimate(
        stage="train",
        hours=hours,
        arithmetic=shown,
        memory=memory,
        storage_gb=table.storage_mb["run"] / 1000,
    )


def scoring(cases: int, there: Resources, recipe: Recipe, table: Rates) -> Estimate:
    """As many actors as `score` would start."""
    plan_ = capacity.plan_for(there, None, cases)
    rate = table.find("score", recipe.name, "gpu" if there.gpus else "cpu")
    units = plan_.actors if there.gpus else plan_.actors * plan_.threads
    unit, per = ("GPU-s", "GPUs") if there.gpus else ("core-s", "cores at work")
    hours, shown = _hours(f"{cases:,} cases", cases, rate, unit, units, per)
    together = capacity.ACTOR_BYTES + capacity.READ_BYTES + capacity.WRITE_BYTES
    memory = f"{plan_.actors:,} worker(s) × {_gib(together)}"
    memory += _beyond(-(-plan_.actors // there.nodes) * together, there)
    return Estimate(
        stage="score",
        hours=hours,
        arithmetic=shown,
        memory=memory,
        storage_gb=cases * table.storage_mb["predictions"] / 1000,
    )


def _hours(
    told: str, count: int, rate: Rate, unit: str, units: int, per: str
) -> tuple[float | None, str]:
    if rate.seconds is None:
        return None, f"{told} × ? {unit} ÷ {units:,} {per}: not measured"
    hours = count * rate.seconds / units / 3600
    return hours, (
        f"{told} × {rate.seconds:g} {unit} ÷ {units:,} {per} ÷ 3600 = {hours:,.2f} h "
        f"({rate.source})"
    )


def _beyond(on_a_node_bytes: int, there: Resources) -> str:
    """What the plan says where a node has less memory than that."""
    if on_a_node_bytes <= there.node_memory_bytes:
        return ""
    return f", which is more than a node has ({_gib(there.node_memory_bytes)})"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _summary(
    cases: int, groups: Sequence[NodeGroup], made: Sequence[Estimate], table: Rates
) -> dict[str, Any]:
    raw_gb = cases * table.storage_mb["raw"] / 1000
    stored_gb = raw_gb + sum(item.storage_gb for item in made)
    known = [item.hours for item in made if item.hours is not None]
    hours = math.fsum(known) if len(known) == len(made) else None
    lines = []
    for item in made:
        lines += [
            f"{item.stage}: {item.arithmetic}",
            f"{item.stage}: memory {item.memory}; storage {item.storage_gb:,.1f} GB",
        ]
    parts = " + ".join(f"{item.storage_gb:,.1f}" for item in made)
    lines.append(
        f"storage: {raw_gb:,.1f} (raw) + {parts} = {stored_gb:,.1f} GB ({table.storage_source})"
    )
    cost, told = _cost(groups, hours)
    lines += [
        told,
        "assumed: time falls with cores and nodes as far as there is work for them; measured were "
        "two cores of one machine",
    ]
    return {
        "planned_cases": cases,
        "stages": {
            item.stage: {"hours": item.hours, "storage_gb": item.storage_gb} for item in made
        },
        "hours": hours,
        "storage_gb": stored_gb,
        "cost": cost,
        "lines": lines,
        "failures": [],
    }


def _cost(groups: Sequence[NodeGroup], hours: float | None) -> tuple[float | None, str]:
    if hours is None:
        return None, "cost: unknown, as a rate is not measured; put your own in --rates FILE"
    prices = [(group.count, group.price) for group in groups if group.price is not None]
    if len(prices) < len(groups):
        return None, f"cost: {hours:,.2f} h of all nodes; add @PRICE for a node and hour to --nodes"
    cost = hours * math.fsum(count * price for count, price in prices)
    told = " + ".join(f"{count} × {price:g}" for count, price in prices)
    return cost, f"cost: {hours:,.2f} h × ({told}) = {cost:,.2f}, storage and traffic aside"
