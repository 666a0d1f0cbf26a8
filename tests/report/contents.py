"""What pages and charts are made of in tests: rows of scores, the log of a run, hostile names."""

from ray_brats.report.markup import METRICS

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'"


def row(case_id: str, region: str, **values: float | None) -> dict[str, object]:
    return {
        "case_id": case_id,
        "region": region,
        **dict.fromkeys(METRICS, 0.5),
        "reference_ml": 20.0,
        **values,
    }


def training() -> list[dict[str, object]]:
    steps = [{"step": step, "loss": 1 / (step + 1)} for step in range(1000)]
    dice = {"WT": 0.7, "ET": None, HOSTILE: 0.2}
    return [
        *steps,
        {"event": "resume", "step": 3},
        {"event": "validation", "step": 9, "dice": dice},
    ]
