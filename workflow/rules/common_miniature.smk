# The cells of the miniature study: every ranked experiment at every share, random draws, all rows, and none.
if config["miniature"] and not config["data"]["planted"]:
    raise WorkflowError(
        "miniature asks planted questions: it needs data.planted; take --configfile config/miniature.yaml"
    )
_SHARES = config["miniature"]["shares"] if config["miniature"] else []
MINIATURE_RUNS = expand(f"{RESULTS}/miniature_runs/{{cell}}-{{share}}.json", cell=[*RANKED, "_random"], share=_SHARES)
MINIATURE_RUNS += expand(f"{RESULTS}/miniature_runs/{{cell}}.json", cell=["_full-1", "_before-0"])


def miniature_ranking(wildcards):
    """The ranking of a cell that is an experiment."""
    return {"ranking": f"{RESULTS}/selection/{wildcards.cell}/ranking.parquet"} if wildcards.cell in RANKED else {}
