"""What the result of a mixture says: its size, and whether its gates can tell experts apart."""

import math
from collections.abc import Sequence

import numpy as np

from treadle.combine.merge.inputs.models import Models
from treadle.combine.merge.mixture.base import MadeGate
from treadle.combine.merge.mixture.plan import MixturePlan, MixtureRequest
from treadle.combine.merge.site import Floats
from treadle.core.result import Figure, Measurement, Series
from treadle.core.run import Recording

__all__ = ["account_for_gates", "account_for_mixture", "condition_number"]

_MOST = 5.0
"""From this condition number on mergekit-moe warns, too."""
_NOTHING = 1e-6
"""Below this share of the rows' own size nothing tells them apart in float32."""


def condition_number(rows: Floats) -> float:
    """Return how unevenly a gate [experts, hidden] tells its experts apart; 1 is best.

    Softmax does not see what all rows have in common: the largest singular value of the rows, over
    the least one of what is left of them without their mean (of experts - 1). Infinite where some
    experts cannot be told apart.
    """
    if len(rows) == 1:
        return 1.0
    doubles = rows.astype(np.float64)
    largest = float(np.linalg.svd(doubles, compute_uv=False)[0])
    left = np.linalg.svd(doubles - doubles.mean(axis=0), compute_uv=False)
    count = len(rows) - 1
    least = float(left[count - 1]) if len(left) >= count else 0.0
    return largest / least if least > _NOTHING * largest else math.inf


def account_for_mixture(
    run: Recording, plan: MixturePlan, request: MixtureRequest, models: Models
) -> None:
    """Note how large the mixture is, and how much of it a token meets."""
    total = sum(one.num_elements for one in plan.planned)
    each = 3 * plan.width * plan.gates[0].shape[1] * len(plan.mlps)
    idle = (request.num_experts - request.experts_per_token) * each
    run.measurements += [
        Measurement(name="parameters", value=total, unit="numbers in the output"),
        Measurement(
            name="active parameters",
            value=total - idle,
            unit="numbers that a token meets",
            note=f"({request.experts_per_token} of {request.num_experts} experts in each MLP)",
        ),
        Measurement(name="models", value=len(models.all()), unit="models read"),
    ]
    run.bytes |= {
        "input": sum(model.reader.num_bytes for model in models.all()),
        "output": sum(one.num_bytes for one in plan.planned),
    }
    if plan.added:
        run.notes.append(
            "The layout has an expert that sees every token; it is there and adds exactly nothing: "
            "its down_proj is zero."
        )


def account_for_gates(run: Recording, gates: Sequence[MadeGate], request: MixtureRequest) -> None:
    """Note how well the gates tell experts apart."""
    found = [condition_number(gate.rows) for gate in gates]
    finite = [value for value in found if math.isfinite(value)]
    if finite:
        run.measurements.append(
            Measurement(
                name="condition number",
                value=max(finite),
                unit="of the gates' rows",
                better="lower",
                note=f"(the worst layer's; the median is {np.median(finite):.3g})",
            )
        )
        run.figures.append(
            Figure(
                kind="line",
                title="How unevenly the gates tell their experts apart",
                x_label="layer",
                y_label="condition number of the gate's rows",
                series=[
                    Series(
                        name="gate",
                        x=[float(n) for n, value in enumerate(found) if math.isfinite(value)],
                        y=finite,
                    )
                ],
            )
        )
    _advise(run, found, request)
    if run.method == "smile":
        run.notes.append(
            "The gates were made of weights alone, which may tell no more than --router random "
            "does: measure both before you rely on them, or give prompts (--prompts)."
        )
    shares = [gate.agreement for gate in gates if gate.agreement is not None]
    if shares:
        run.measurements.append(
            Measurement(
                name="agreement",
                value=float(np.mean(shares)),
                unit="of inputs go where a gate of any form would send them",
                better="higher",
                note=f"(mean over layers; evenly over experts: {1 / len(gates[0].rows):.2g})",
            )
        )


def _advise(run: Recording, found: Sequence[float], request: MixtureRequest) -> None:
    """Say what to do about gates that cannot tell experts apart, or hardly."""
    blind = sum(map(math.isinf, found))
    poor = sum(value > _MOST for value in found) - blind
    mends = ["give prompts that say what each is for (--prompts)"]
    if request.router.needs_prompts:
        mends = ["give prompts that differ more, or more of them"]
    if request.base is None:
        mends.append("name the model that the experts were tuned from (--base)")
    if blind:
        run.notes.append(
            f"In {blind} of {len(found)} MLPs the gate cannot tell all experts apart, and sends "
            f"tokens to them evenly, or to the first ones listed: check that the experts differ, "
            f"or {', or '.join(mends)}."
        )
    if poor:
        run.notes.append(
            f"In {poor} of {len(found)} MLPs the condition number of the gate's rows is above "
            f"{_MOST:g}, so that some experts are hardly told apart: {', or '.join(mends)}."
        )
