"""The picture of what each layer costs."""

from matplotlib.ticker import FuncFormatter

from srigl_jax.analysis.costs import Costs, total_costs
from srigl_jax.analysis.svg import LIGHT, Picture, drawing, to_svg
from srigl_jax.analysis.table import quantity


def flops_by_layer(costs: Costs) -> Picture:
    """FLOPs of each layer: dense, as asked and as learned.

    Args:
        costs: as from `layer_costs`, of at least one layer.
    """
    flops = total_costs(costs)["flops"]
    title = (
        f"Inference takes {quantity(flops['learned'])} FLOPs, "
        f"{flops['learned'] / flops['dense']:.1%} of the dense network's"
    )
    rows = range(len(costs))
    values = {kind: [row["flops"][kind] for row in costs] for kind in flops}
    with drawing(960, 90 + 24 * len(costs)) as figure:
        axes = figure.subplots()
        axes.barh(rows, values["dense"], 0.8, color=LIGHT["rule"], label="dense")
        axes.barh(rows, values["learned"], 0.4, color=LIGHT["blue"], label="learned")
        axes.scatter(
            values["asked"],
            rows,
            marker="|",
            s=120,
            color=LIGHT["orange"],
            label="asked",
            zorder=3,
        )
        axes.set_yticks(rows, [row["name"] for row in costs])
        axes.set_ylim(len(costs) - 0.4, -0.6)
        axes.grid(False)
        axes.set_xlabel("FLOPs of one example")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: quantity(x)))
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
        svg = to_svg(figure, title)
    return Picture(
        title,
        "Grey: every weight exists. Orange: the density that was asked for. Blue: what "
        "the masks leave, ablated neurons and what only they read or feed not counted.",
        svg,
    )
