"""What `panoptica` says of pairs of label maps; run by a Python that has it, not by ours.

    PYTHON tests/metrics/panoptica_peer.py PAIRS.npz ANSWERS.json

PAIRS.npz has for each number n `reference_n`, `prediction_n` (label maps) and `spacing_n` (mm), and
`regions`, JSON: a name to the integers that the region joins. ANSWERS.json gets a list, an object
a pair: the region's name to its numbers, null where a number does not exist or is infinite.

The settings are those of the BraTS challenge of 2026: 26-connected components, matched one to one
by Dice of at least 1e-6; Dice, NSD and HD95 of the whole mask and of the matches.
"""

import contextlib
import io
import json
import math
import sys
import warnings

import numpy as np
from panoptica import (
    ConnectedComponentsInstanceApproximator,
    InputType,
    MaxBipartiteMatching,
    Panoptica_Evaluator,
)
from panoptica.metrics import Metric
from panoptica.metrics.normalized_surface_dice import _compute_normalized_surface_dice
from panoptica.utils import EdgeCaseHandler, SegmentationClassGroups
from panoptica.utils.edge_case_handling import EdgeCaseResult, MetricZeroTPEdgeCaseHandling
from panoptica.utils.label_group import LabelMergeGroup

METRICS = [Metric.DSC, Metric.NSD, Metric.HD95]
TOLERANCES_MM = {"nsd_05mm": 0.5, "nsd_1mm": 1.0, "nsd_2mm": 2.0, "nsd_voxel": None}
NUMBERS = (
    *("global_bin_dsc", "global_bin_nsd", "global_bin_hd95", "sq_dsc", "sq_nsd", "sq_hd95"),
    *("tp", "fp", "fn", "prec", "rec", "rq"),
)


def evaluator(regions):
    worst = {Metric.HD95: EdgeCaseResult.INF}
    edges = {
        metric: MetricZeroTPEdgeCaseHandling(
            no_instances_result=EdgeCaseResult.NAN,
            default_result=worst.get(metric, EdgeCaseResult.ZERO),
        )
        for metric in METRICS
    }
    groups = {name: LabelMergeGroup(labels) for name, labels in regions.items()}
    return Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(),
        instance_matcher=MaxBipartiteMatching(
            matching_metric=Metric.DSC, matching_threshold=0.000001
        ),
        edge_case_handler=EdgeCaseHandler(listmetric_zeroTP_handling=edges),
        segmentation_class_groups=SegmentationClassGroups(groups),
        instance_metrics=METRICS,
        global_metrics=METRICS,
    )


def number(value):
    known = value is not None and math.isfinite(value)
    return float(value) if known else None


def measured(result, reference, prediction, spacing_mm):
    found = result.to_dict(output_individual_instance_metrics=True)
    answer = {name: number(found.get(name)) for name in NUMBERS}
    answer["instances"] = [
        {name: number(value) for name, value in row.items()} for row in found["reference_instances"]
    ]
    if (reference & prediction).any():
        how = {"voxelspacing": spacing_mm}
        for name, size_mm in TOLERANCES_MM.items():
            value = _compute_normalized_surface_dice(
                reference, prediction, threshold=size_mm, **how
            )
            answer[name] = number(value)
        answer["hd95_mm"] = number(Metric.HD95(reference, prediction, **how))
    return answer


def main(pairs, answers):
    content = np.load(pairs)
    regions = json.loads(str(content["regions"]))
    judge, found = evaluator(regions), []
    count = sum(name.startswith("spacing_") for name in content.files)
    for index in range(count):
        reference, prediction = (content[f"{of}_{index}"] for of in ("reference", "prediction"))
        spacing_mm = tuple(content[f"spacing_{index}"].tolist())
        results = judge.evaluate(prediction, reference, voxelspacing=spacing_mm)
        found.append(
            {
                name: measured(
                    results[name],
                    np.isin(reference, labels),
                    np.isin(prediction, labels),
                    spacing_mm,
                )
                for name, labels in regions.items()
            }
        )
    with open(answers, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(found, file)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        main(*sys.argv[1:])
