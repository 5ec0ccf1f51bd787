# Every folder of results gets a manifest, which says what the folder holds, and what it was made with and from.
from gateau.hub_entries import is_listing

# By target, the folders that it fills and the last outputs of each. The manifest is written after these.
_SHARDED = rules.scores.output if RANKED else []  # of the passes: a list of all shards would be long
_SELECTED = {
    "hub_data": [
        path for path in RAW_LONG * CONFIGURED.needs_rows + RAW_SHORT * ("short" in SOURCES) if is_listing(path)
    ],
    "planted_rows": RAW_LONG if config["data"]["planted"] and CONFIGURED.needs_rows else [],
    "samples": rules.samples.output if CONFIGURED.needs_rows else [],
    "index": rules.index.output if RANKED else [],
    "short_pass": _SHARDED,
    "long_pass": _SHARDED,
    "screen": _SHARDED if config["scoring"]["screen"] is not None else [],
    "segment_pass": _SHARDED,
    "scores": _SHARDED,
    "contrast_pass": CONTRASTED,
    "contrast": CONTRASTED,
    "minhash": (
        rules.minhash.output if CONFIGURED.any_ranked(lambda experiment: experiment.leaves_out_near_duplicates) else []
    ),
    "embeddings": (
        rules.embeddings.output if CONFIGURED.any_ranked(lambda experiment: experiment.takes_of_each_cluster) else []
    ),
    "rewards": rules.rewards.output if CONFIGURED.any_ranked(lambda experiment: experiment.reads_rewards) else [],
    "selection": expand([*rules.selection.output, *rules.plot_selection.output], experiment=RANKED)
    + list(rules.overview.output) * bool(RANKED),
}
_DELIVERED = {
    "scored": rules.scored.output if DELIVERED else [],
    "dataset": all_by_contents(f"{RESULTS}/dataset/{{experiment}}", experiment=DELIVERED),
}
_COMPARED = {
    "comparison": rules.comparison.output if CONFIGURED.is_compared else [],
    "choices": rules.choices.output if CONFIGURED.is_compared else [],
    "sensitivity": rules.sensitivity.output if CONFIGURED.is_compared else [],
}
_TRAINED = {
    "chats": rules.chats.output if "short" in SOURCES else [],
    "tokens": expand(rules.tokens.output.tokens, source=SOURCES),
    "mixture": expand(rules.mixture.output, experiment=TRAINED),
    "plan": expand(rules.plan.output, experiment=TRAINED),
    "train": expand(rules.train.output.summary, experiment=TRAINED),
    "plot_train": rules.plot_train.output if TRAINED else [],
    "export": all_by_contents(f"{RESULTS}/export/{{experiment}}", experiment=TRAINED),
}
_PREDICTIONS = all_by_contents(f"{RESULTS}/predictions/{{model}}/{{benchmark}}", model=EVALUATED, benchmark=BENCHMARKS)
_EVALUATED = {
    "assets": all_by_contents(f"{RESULTS}/assets/{{benchmark}}", benchmark=BENCHMARKS) if EVALUATED else [],
    "generate": _PREDICTIONS,
    "predictions": _PREDICTIONS,
    "answers": rules.answers.output if EVALUATED and BENCHMARKS else [],
    "judge": expand(rules.judge.output.judgments, model=EVALUATED, benchmark=JUDGED),
    **{
        f"score_{benchmark}": expand(f"{RESULTS}/score_{benchmark}/{{model}}/scores.json", model=EVALUATED)
        for benchmark in SCORED
    },
    "harness": expand(f"{RESULTS}/harness/{{model}}/{{task}}/scores.json", task=HARNESS, model=EVALUATED),
    "leaderboard": rules.leaderboard.output.csv if (SCORED or HARNESS) and EVALUATED else [],
}
_STUDIED = (
    {"miniature_runs": MINIATURE_RUNS, "miniature_summary": rules.miniature_summary.output}
    if config["miniature"]
    else {}
)
_LAST = {**_SELECTED, **_COMPARED, **_DELIVERED, **_TRAINED, **_EVALUATED, **_STUDIED}


MANIFESTS = manifests_of(_SELECTED, _COMPARED, _DELIVERED, _TRAINED, _EVALUATED)
MANIFESTS_SELECTED = manifests_of(_SELECTED, _COMPARED, _DELIVERED)
MANIFESTS_PLANTED = manifests_of(_SELECTED, _COMPARED)
MANIFESTS_EVALUATED = manifests_of(_EVALUATED)
MANIFESTS_STUDIED = manifests_of(_SELECTED, _STUDIED)

# The page waits for all that the run makes, and that of the target `selected` for the selections alone. It has a manifest
# of its own, which it cannot wait for.
_PAGES = {"index": MANIFESTS, "selected": MANIFESTS_SELECTED}
_LAST["report_page"] = f"{RESULTS}/report_page/index.html"
PAGE = [_LAST["report_page"], f"{RESULTS}/report_page/manifest.json"] if MANIFESTS else []
PAGE_SELECTED = (
    PAGE if MANIFESTS == MANIFESTS_SELECTED else [f"{RESULTS}/report_page/selected.html"] * bool(MANIFESTS_SELECTED)
)


# No parameter from the configuration is compared here: another setting reruns this rule through what it changes.
rule manifest:
    input:
        lambda wildcards: _LAST[wildcards.folder],
    output:
        f"{RESULTS}/{{folder}}/manifest.json",
    log:
        f"{RESULTS}/logs/manifest/{{folder}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/manifest/{{folder}}.tsv"
    wildcard_constraints:
        folder=r"[a-z_]+",
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        script=script("manifest"),
        code=code_digest("manifest.py"),
        results=lambda wildcards, output: str(Path(output[0]).parents[1]),
        config=lambda wildcards, input: json.dumps(config, sort_keys=True),
        models=lambda wildcards, input: json.dumps(model_fingerprints(), sort_keys=True),
        data=lambda wildcards, input: shlex.join(raw_files_of(wildcards.folder)),
    shell:
        "python {params.script:q} --folder {params.results:q}/{wildcards.folder}"
        " --logs {params.results:q}/logs/{wildcards.folder} --config {params.config:q} --models {params.models:q}"
        " --data {params.data} --output {output:q} > {log:q} 2>&1"


rule provenance:
    input:
        MANIFESTS,
    output:
        report(
            f"{RESULTS}/provenance/provenance.md",
            caption="../report/provenance.rst",
            category="6. Provenance",
            labels={"table": "versions, models, data, machines"},
        ),
    log:
        f"{RESULTS}/logs/provenance/provenance.log",
    benchmark:
        f"{RESULTS}/benchmarks/provenance/provenance.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        script=script("provenance"),
        code=code_digest("provenance.py"),
    shell:
        "python {params.script:q} --manifests {input:q} --output {output:q} > {log:q} 2>&1"


# `gateau report` makes the same page by hand, also while the run goes on.
rule report_page:
    input:
        lambda wildcards: _PAGES[wildcards.page],
    output:
        f"{RESULTS}/report_page/{{page}}.html",
    log:
        f"{RESULTS}/logs/report_page/{{page}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/report_page/{{page}}.tsv"
    wildcard_constraints:
        page="index|selected",
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=60,
    params:
        script=script("report_page"),
        code=code_digest("report_page.py"),
        templates=files_digest(RESOURCES / "report_page"),
        results=lambda wildcards, output: results_of(output, "report_page/page.html"),
    shell:
        "python {params.script:q} --results {params.results:q} --output {output:q} > {log:q} 2>&1"
