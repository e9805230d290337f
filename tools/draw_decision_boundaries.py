"""Draw the decision boundaries of the margin-softmax family for two classes: docs/decision-boundaries.png.

    python tools/draw_decision_boundaries.py [FILE]

The axes are the angles of a feature to the two class centres. A training image of a class has no loss to speak of only
inside the region of its colour; between the regions lies the margin. After Figure 5 of Deng et al., "ArcFace",
CVPR 2019, from the logits that the package computes.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from reid_da.losses.margin import MARGINS, margin_logits

NAMES = {
    "norm_softmax": "norm-softmax",
    "sphereface": "SphereFace (4θ)",
    "cosface": "CosFace (0.35)",
    "arcface": "ArcFace (0.5)",
    "combined": "combined (0.3, 0.2)",
}
DEGREES = np.linspace(0, 180, 721)


def main() -> None:
    """Write the picture."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs" / "decision-boundaries.png"
    figure = Figure(figsize=(12.5, 2.9), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(NAMES), sharey=True)
    cosine = torch.from_numpy(np.cos(np.radians(DEGREES)))
    for axes, (kind, name) in zip(panels, NAMES.items(), strict=True):
        margin = MARGINS[kind]
        label = torch.zeros(len(cosine), dtype=torch.int64)
        target = margin_logits(cosine[:, None], label, m1=margin.m1, m2=margin.m2, m3=margin.m3).squeeze(1)
        # rows: angle to the second centre, columns: to the first
        is_first = (target[None, :] > cosine[:, None]).numpy()
        region = np.where(is_first, 1.0, np.where(is_first.T, -1.0, np.nan))
        axes.imshow(region, origin="lower", extent=(0, 180, 0, 180), cmap="coolwarm", vmin=-2, vmax=2)
        axes.plot([0, 180], [0, 180], color="black", linewidth=0.6, linestyle=":")
        axes.set(title=name, xlabel="θ₁, degrees", xticks=range(0, 181, 45), yticks=range(0, 181, 45))
    panels[0].set_ylabel("θ₂, degrees")
    figure.savefig(path)


if __name__ == "__main__":
    main()
