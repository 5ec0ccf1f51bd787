"""A few lines at the start of a run: how much the passes compute. They read an index and some config.json only."""

from __future__ import annotations

from pathlib import Path

from gateau.costs.lengths import BoundedRows, lengths_of_index
from gateau.costs.passes import PASSES, PassOptions, contrast_stage, pass_stage
from gateau.errors import UserError
from gateau.experiments import Configuration
from gateau.model_files import ModelSpec, local_copy
from gateau.work import DecoderShape

_ROWS = 2000  # rows that are counted one by one, which takes a tenth of a second
_MORE = "python scripts/estimate.py --configfile <yours> says what a whole run costs"


def start_summary(configuration: Configuration) -> str:
    """Return the rows, tokens and operations of all passes, with samples that are already scored.

    It never raises an error for what a user has written. It says what it cannot tell.
    """
    config = configuration.config
    index = Path(config["results_dir"], "index/index.parquet")
    if not index.is_file():
        return f"estimate: token lengths are not counted yet (rule index); {_MORE}"
    contrasts = configuration.contrasts
    try:
        scored = [one for one in lengths_of_index(index) if one.scored]
        roles = dict.fromkeys(["short", "long", *(contrast.role for contrast in contrasts.values())])
        specs = {role: local_copy(ModelSpec.from_config(configuration.model(role))) for role in roles}
        shapes = {role: DecoderShape.from_config(spec.config(), spec.path) for role, spec in specs.items()}
        windows = {role: spec.context_window() for role, spec in specs.items()}
        options = PassOptions.from_config(config, windows["short"])
        some = BoundedRows.exact(scored[:: max(len(scored) // _ROWS, 1)])
        stages = [
            pass_stage(rule, shapes["short" if rule == "short_pass" else "long"], some, options) for rule in PASSES
        ]
        stages += [
            contrast_stage(name, one, shapes[one.role], windows[one.window_of], some, options)
            for name, one in contrasts.items()
        ]
    except (UserError, OSError, ValueError, TypeError, KeyError) as error:
        return f"estimate: not possible ({error}); {_MORE}"
    share = len(some.likely) / max(len(scored), 1)
    work = ", ".join(f"{stage.title} {stage.flops.likely / share:.3g}" for stage in stages if stage.flops and share)
    return (
        f"estimate: {len(scored):,} long rows with {sum(one.total for one in scored):,} tokens; FLOP of all their "
        f"passes: {work}; {_MORE}"
    )
