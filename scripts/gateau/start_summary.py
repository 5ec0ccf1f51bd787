"""A few lines at the start of a run: how much the passes will compute. Cheap: an index, some config.json, no more.

What a whole run costs, ``scripts/estimate.py`` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateau.cached_models import local_copy
from gateau.errors import UserError
from gateau.estimates import DecoderShape
from gateau.methods import Contrast
from gateau.model_files import ModelSpec
from gateau.row_lengths import lengths_of_index
from gateau.stage_costs import contrast_stage, pass_options, pass_stages

_ROWS = 2000  # that are counted one by one: a tenth of a second
_MORE = "python scripts/estimate.py --configfile <yours> says what a whole run costs"


def start_summary(config: Mapping[str, Any], results: str, contrasts: Mapping[str, Contrast]) -> str:
    """Rows, tokens and operations of the passes as the index has them, samples that are already scored included.

    ``contrasts`` are those whose pass the experiments need. Never raises for what a user has written; it says what it
    cannot tell.
    """
    index = Path(results, "index/index.parquet")
    if not index.is_file():
        return f"estimate: token lengths are not counted yet (rule index); {_MORE}"
    try:
        lengths = lengths_of_index(index)
        roles = dict.fromkeys(["short", "long", *(contrast.role for contrast in contrasts.values())])
        specs = {role: local_copy(ModelSpec.from_config(config["models"][role])) for role in roles}
        shapes = {role: DecoderShape.from_config(spec.config(), spec.path) for role, spec in specs.items()}
        windows = {role: spec.context_window() for role, spec in specs.items()}
        options = pass_options(config, windows["short"], config["scoring"]["device"] != "cpu", "sdpa")
        by_rule = {"short_pass": shapes["short"], "long_pass": shapes["long"], "segment_pass": shapes["long"]}
        scored = [one for one in lengths.likely if one.scored]
        some = scored[:: max(len(scored) // _ROWS, 1)]
        counted = replace(lengths, likely=some, low=some, high=some)
        stages = pass_stages(by_rule, counted, options)
        stages += [
            contrast_stage(name, one, shapes[one.role], windows[one.window_of], counted, options)
            for name, one in contrasts.items()
        ]
    except (UserError, OSError, ValueError, TypeError, KeyError) as error:
        return f"estimate: not possible ({error}); {_MORE}"
    share = len(some) / max(len(scored), 1)
    work = ", ".join(f"{stage.title} {stage.flops.likely / share:.3g}" for stage in stages if stage.flops and share)
    return (
        f"estimate: {len(scored):,} long rows with {sum(one.total for one in scored):,} tokens; FLOP of all their "
        f"passes: {work}; {_MORE}"
    )
