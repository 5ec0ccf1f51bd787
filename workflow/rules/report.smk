# Every folder of results gets a manifest, which says what the folder holds, and what it was made with and from.

# By target, the folders that it fills and the last outputs of each. The manifest is written after these.
_SHARDED = rules.scores.output if RANKED else []  # of the passes: a list of all shards would be long
_SELECTED = {
    "planted_rows": RAW_LONG if config["data"]["planted"] else [],
    "samples": rules.samples.output,
    "index": rules.index.output if RANKED else [],
    "short_pass": _SHARDED,
    "long_pass": _SHARDED,
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
_COMPARED = {
    "comparison": rules.comparison.output if CONFIGURED.is_compared else [],
    "choices": rules.choices.output if CONFIGURED.is_compared else [],
    "sensitivity": rules.sensitivity.output if CONFIGURED.is_compared else [],
}
_TRAINED = {
    "chats": rules.chats.output if RAW_SHORT else [],
    "tokens": expand(rules.tokens.output.tokens, source=SOURCES),
    "mixture": expand(rules.mixture.output, experiment=EXPERIMENTS),
    "plan": expand(rules.plan.output, experiment=EXPERIMENTS),
    "train": expand(rules.train.output.summary, experiment=EXPERIMENTS),
    "plot_train": rules.plot_train.output,
    "export": all_by_contents(f"{RESULTS}/export/{{experiment}}", experiment=EXPERIMENTS),
}
_PREDICTIONS = all_by_contents(f"{RESULTS}/predictions/{{model}}/{{benchmark}}", model=EVALUATED, benchmark=BENCHMARKS)
_EVALUATED = {
    "assets": all_by_contents(f"{RESULTS}/assets/{{benchmark}}", benchmark=BENCHMARKS) if EVALUATED else [],
    "generate": _PREDICTIONS,
    "predictions": _PREDICTIONS,
    "judge": expand(rules.judge.output.judgments, model=EVALUATED, benchmark=JUDGED),
    **{
        f"score_{benchmark}": expand(f"{RESULTS}/score_{benchmark}/{{model}}/scores.json", model=EVALUATED)
        for benchmark in SCORED
    },
    "leaderboard": rules.leaderboard.output.csv if SCORED and EVALUATED else [],
}
_STUDIED = (
    {"miniature_runs": MINIATURE_RUNS, "miniature_summary": rules.miniature_summary.output}
    if config["miniature"]
    else {}
)
_LAST = {**_SELECTED, **_COMPARED, **_TRAINED, **_EVALUATED, **_STUDIED}


MANIFESTS = manifests_of(_SELECTED, _COMPARED, _TRAINED, _EVALUATED)
MANIFESTS_SELECTED = manifests_of(_SELECTED, _COMPARED)
MANIFESTS_EVALUATED = manifests_of(_EVALUATED)
MANIFESTS_STUDIED = manifests_of(_SELECTED, _STUDIED)


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
        data=lambda wildcards, input: shlex.join({"samples": RAW_LONG, "chats": RAW_SHORT}.get(wildcards.folder, [])),
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
            category="Provenance",
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
