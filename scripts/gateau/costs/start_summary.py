"""One line at the start of a run: how much the passes compute. It reads an index and some config.json only."""

from __future__ import annotations

from pathlib import Path

from gateau.costs.run import Run
from gateau.errors import UserError
from gateau.experiments import Configuration

_MORE = "gateau estimate --configfile <yours> says what a whole run costs"


def start_summary(configuration: Configuration) -> str:
    """Return the rows, tokens and operations of all passes, with samples that are already scored.

    It never raises an error for what a user has written. It says what it cannot tell.
    """
    results = Path(configuration.config["results_dir"])
    if not (results / "index/index.parquet").is_file():
        return f"estimate: token lengths are not counted yet (rule index); {_MORE}"
    run = Run(configuration, results)
    try:
        samples, passes = run.long or [], run.passes()
    except (UserError, OSError, ValueError, TypeError, KeyError) as error:
        return f"estimate: not possible ({error}); {_MORE}"
    work = ", ".join(f"{one.title} {one.flops:.3g}" for one in passes if one.flops is not None)
    return (
        f"estimate: {len(samples):,} long rows with {sum(one.total for one in samples):,} tokens; FLOP of all their "
        f"passes: {work or 'none'}; {_MORE}"
    )
