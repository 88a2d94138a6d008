"""The plot of `plan base --plot FILE`: parameters against tokens with lines of equal loss. The only file here that imports matplotlib."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError
from loop.plan.laws import LAWS, Law

ROOM = 3.0
"""How far the plot reaches to both sides of the points, as a factor."""
LINES = 12
GRID = 200


def loss_grid(law: Law, params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The losses [tokens, params] of all combinations."""
    return np.array([[law.loss(n, d) for n in params] for d in tokens])


def draw(plan: Mapping[str, Any], file: Path) -> None:
    """Draw a plan of `plan_base` into an SVG file. Raises UserError where the file cannot be written."""
    import matplotlib
    from matplotlib.figure import Figure

    law, known = LAWS[plan["law"]], plan["known"]
    params = _axis([plan["params"], *(model["params"] for model in known)])
    tokens = _axis([plan["tokens"], *(model["tokens"] for model in known)])
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="parameters N", ylabel="tokens D")
    lines = axes.contour(params, tokens, loss_grid(law, params, tokens), levels=LINES, cmap="viridis")
    axes.clabel(lines, fmt="%.2f", fontsize=8)
    best = [law.best_split(flops) for flops in np.geomspace(6 * params[0] * tokens[0], 6 * params[-1] * tokens[-1], GRID)]
    axes.plot([n for n, _ in best], [d for _, d in best], "--", color="black", linewidth=1, label="best split of a budget")
    for model in known:
        axes.plot(model["params"], model["tokens"], "o", color="gray", markersize=4)
        axes.annotate(model["name"], (model["params"], model["tokens"]), fontsize=8, xytext=(4, 4), textcoords="offset points")
    axes.plot(plan["params"], plan["tokens"], "*", color="red", markersize=12, label="this plan")
    axes.set(xlim=(params[0], params[-1]), ylim=(tokens[0], tokens[-1]), title=f"lines of equal loss: {law.source}")
    axes.legend(loc="lower right", fontsize=8)
    try:
        with matplotlib.rc_context({"svg.hashsalt": law.name}):  # else its identifiers are drawn at random
            figure.savefig(file, format="svg", metadata={"Date": None})
    except OSError as error:
        raise UserError(f"the plot cannot be written: {error.strerror or error}", f"--plot {file}", "name a file in a folder") from None


def _axis(values: list[float]) -> np.ndarray:
    """Numbers at equal ratios around the values, with some room on both sides."""
    return np.geomspace(min(values) / ROOM, max(values) * ROOM, GRID)
