"""`plan`: hours, memory, storage and cost of a cohort on given nodes, with the arithmetic shown.

Every figure comes from the table of rates (`rates.toml`, or the user's); what nobody measured is
said to be unknown, never guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ray_brats.cases import cohort as cohorts
from ray_brats.commands.arguments import (
    CountOption,
    FileOption,
    Length,
    RecipeChoice,
    TaskOption,
    check_inputs,
    found,
)
from ray_brats.commands.preflight import rates as tables
from ray_brats.commands.preflight.rates import Rate, Rates
from ray_brats.errors import UsageError
from ray_brats.files.ledger import Summary
from ray_brats.progress import say
from ray_brats.recipes import costs
from ray_brats.recipes.config import Recipe

if TYPE_CHECKING:
    from ray_brats.engine.cluster import Resources

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


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Estimate hours, memory, storage and cost of preprocess, train and score."""

    cohort: Annotated[str | None, Positional, arg(metavar="[COHORT]")] = None
    """Folder, s3:// prefix or CSV, whose cases are counted."""
    nodes: Annotated[tuple[str, ...], arg(metavar='"Nx(8cpu,1gpu,32GiB)@PRICE" …')]
    """Groups of equal nodes, as "4x(8cpu,1gpu,32GiB)"; @PRICE behind it is that of one node and
    hour."""
    cases: CountOption = None
    """How many, instead of a cohort."""
    recipe: RecipeChoice = field(default_factory=RecipeChoice)
    length: Length = field(default_factory=Length)
    workers: CountOption = None
    """Training processes; by default as train chooses."""
    rates: FileOption = None
    """TOML table of rates, instead of the one that ships with ray-brats."""
    task: TaskOption = None
    """What the labels mean, where file names do not tell: gli-2021, gli-post, ped …, or a file."""


def plan(options: PlanOptions) -> Summary:
    """Estimate hours, memory, storage and cost of preprocess, train and score."""
    groups = [parse_nodes(text) for text in options.nodes]
    if not groups:
        raise UsageError('--nodes: expected groups of nodes, as "4x(8cpu,1gpu,32GiB)"')
    if (options.cohort is None) == (options.cases is None):
        raise UsageError("expected either COHORT or --cases N, to know how many cases there are")
    recipe = options.recipe.read(length=options.length)
    cases = _usable(options, recipe) if options.cases is None else options.cases
    if not 1 <= cases <= tables.MOST:
        raise UsageError(f"{cases} case(s): expected 1 to {tables.MOST:,}")
    for unit in ("steps", "patches"):
        count = getattr(options.length, unit)
        if count is not None and count > tables.MOST:
            raise UsageError(f"--{unit} {count}: expected at most {tables.MOST:,}")
    table = tables.read(options.rates)
    if sum(group.count for group in groups) > MOST_NODES:
        raise UsageError(f"--nodes: expected at most {MOST_NODES:,} nodes")
    resources = total(groups)
    estimates = [
        preprocessing(cases, resources, recipe, table),
        training(recipe, resources, table, options.workers),
        scoring(cases, resources, recipe, table),
    ]
    return _summary(cases, groups, estimates, table)


def _usable(options: PlanOptions, recipe: Recipe) -> int:
    """How many cases of the cohort have all modalities of the recipe."""
    assert options.cohort is not None
    wanted = set(recipe.preprocess.modalities)
    cohort = found(options.cohort, cohorts.task_of(options.task))
    check_inputs(cohort, recipe.preprocess)
    cases = sum(wanted <= set(case.images) for case in cohort.cases)
    left_out = len(cohort.cases) + len(cohort.rejected) - cases
    if left_out:
        say(f"plan: {left_out} case(s) are not usable and not counted (`ray-brats check`)")
    return cases


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
        amount = _PART.fullmatch(part)
        if amount is None or amount[2] in parts:
            raise wrong
        parts[amount[2]] = float(amount[1])
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
    from ray_brats.engine.cluster import Resources

    return Resources(
        cpus=sum(group.count * group.cpus for group in groups),
        gpus=sum(group.count * group.gpus for group in groups),
        node_cpus=max(group.cpus for group in groups),
        node_memory_bytes=max(group.memory_bytes for group in groups),
        memory_bytes=sum(group.count * group.memory_bytes for group in groups),
        nodes=sum(group.count for group in groups),
        shapes=tuple((group.cpus, group.gpus) for group in groups for _ in range(group.count)),
    )


def preprocessing(cases: int, resources: Resources, recipe: Recipe, table: Rates) -> Estimate:
    """A task a core, and no more than the memory allows."""
    from ray_brats.stages import preprocess

    rate = table.find("preprocess", recipe.name, "cpu")
    fitting = resources.memory_bytes // preprocess.TASK_MEMORY_BYTES
    tasks = max(1, min(cases, resources.cpus, fitting))
    hours, shown = _hours(f"{cases:,} cases", cases, rate, "core-s", tasks, "tasks at a time")
    return Estimate(
        stage="preprocess",
        hours=hours,
        arithmetic=shown,
        memory=f"{tasks:,} tasks × {_gib(preprocess.TASK_MEMORY_BYTES)}",
        storage_gb=cases * table.storage_mb["dataset"] / 1000,
    )


def training(
    recipe: Recipe, resources: Resources, table: Rates, workers: int | None = None
) -> Estimate:
    """Every worker takes its share of every step."""
    from ray_brats.engine import capacity

    count = capacity.workers_for(workers, resources).most
    rate = table.find("train", recipe.name, "gpu" if resources.gpus else "cpu")
    placed = capacity.cpus_of_worker(count, resources)
    cores = 1 if resources.gpus else placed
    settings = recipe.train
    hours: float | None
    if settings.minutes is not None:
        hours, shown = settings.minutes / 60, f"{settings.minutes:g} minutes, validation included"
    else:
        patches = settings.batch_per_worker * settings.accumulate
        steps = settings.steps
        if settings.patches is not None:
            steps = math.ceil(settings.patches / (count * patches))
        assert steps is not None
        work = f"{steps:,} steps × {patches} patch(es)"
        unit = "GPU-s" if resources.gpus else "core-s"
        per = "GPU" if resources.gpus else "core(s) of a worker"
        hours, shown = _hours(work, steps * patches, rate, unit, cores, per)
    memory = f"{count} worker(s) × {_gib(costs.training_bytes(recipe))}"
    memory += _beyond(-(-count // resources.nodes) * costs.training_bytes(recipe), resources)
    if resources.gpus:
        memory += "; GPU memory not measured"
    return Estimate(
        stage="train",
        hours=hours,
        arithmetic=shown,
        memory=memory,
        storage_gb=table.storage_mb["run"] / 1000,
    )


def scoring(cases: int, resources: Resources, recipe: Recipe, table: Rates) -> Estimate:
    """The estimate of `score`, with as many actors as it would start."""
    from ray_brats.engine import capacity

    placed = capacity.for_scoring(resources, None, cases)
    rate = table.find("score", recipe.name, "gpu" if resources.gpus else "cpu")
    units = placed.actors if resources.gpus else placed.actors * placed.threads
    unit, per = ("GPU-s", "GPUs") if resources.gpus else ("core-s", "cores at work")
    hours, shown = _hours(f"{cases:,} cases", cases, rate, unit, units, per)
    together = capacity.ACTOR_BYTES + capacity.READ_BYTES + capacity.WRITE_BYTES
    memory = f"{placed.actors:,} worker(s) × {_gib(together)}"
    memory += _beyond(-(-placed.actors // resources.nodes) * together, resources)
    return Estimate(
        stage="score",
        hours=hours,
        arithmetic=shown,
        memory=memory,
        storage_gb=cases * table.storage_mb["predictions"] / 1000,
    )


def _hours(
    work: str, count: int, rate: Rate, unit: str, units: int, per: str
) -> tuple[float | None, str]:
    if rate.seconds is None:
        return None, f"{work} × ? {unit} ÷ {units:,} {per}: not measured"
    hours = count * rate.seconds / units / 3600
    return hours, (
        f"{work} × {rate.seconds:g} {unit} ÷ {units:,} {per} = {_duration(hours)} ({rate.source})"
    )


def _duration(hours: float) -> str:
    """`3.20 h`, or `12 s` and `4.5 min` where hours would say nothing."""
    if hours >= 1:
        return f"{hours:,.2f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"


def _beyond(on_a_node_bytes: int, resources: Resources) -> str:
    """What the plan says where a node has less memory than that."""
    if on_a_node_bytes <= resources.node_memory_bytes:
        return ""
    return f", which is more than a node has ({_gib(resources.node_memory_bytes)})"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _summary(
    cases: int, groups: Sequence[NodeGroup], estimates: Sequence[Estimate], table: Rates
) -> Summary:
    raw_gb = cases * table.storage_mb["raw"] / 1000
    stored_gb = raw_gb + sum(item.storage_gb for item in estimates)
    known = [item.hours for item in estimates if item.hours is not None]
    hours = math.fsum(known) if len(known) == len(estimates) else None
    lines = []
    for item in estimates:
        lines += [
            f"{item.stage}: {item.arithmetic}",
            f"{item.stage}: memory {item.memory}; storage {item.storage_gb:,.1f} GB",
        ]
    parts = " + ".join(f"{item.storage_gb:,.1f}" for item in estimates)
    lines.append(
        f"storage: {raw_gb:,.1f} (raw) + {parts} = {stored_gb:,.1f} GB ({table.storage_source})"
    )
    cost, sentence = _cost(groups, hours)
    lines += [
        sentence,
        "assumed: time falls with cores and nodes as far as there is work for them; measured were "
        "two cores of one machine",
    ]
    facts = {
        "planned_cases": cases,
        "stages": {
            item.stage: {"hours": item.hours, "storage_gb": item.storage_gb} for item in estimates
        },
        "hours": hours,
        "storage_gb": stored_gb,
        "cost": cost,
    }
    return Summary(facts=facts, lines=lines)


def _cost(groups: Sequence[NodeGroup], hours: float | None) -> tuple[float | None, str]:
    if hours is None:
        return None, "cost: unknown, as a rate is not measured; put your own in --rates FILE"
    prices = [(group.count, group.price) for group in groups if group.price is not None]
    if len(prices) < len(groups):
        return (
            None,
            f"cost: {_duration(hours)} of all nodes; add @PRICE for a node and hour to --nodes",
        )
    cost = hours * math.fsum(count * price for count, price in prices)
    terms = " + ".join(f"{count} × {price:g}" for count, price in prices)
    return cost, f"cost: {hours:,.2f} h × ({terms}) = {cost:,.2f}, storage and traffic aside"
