# Every folder of results gets a manifest: what it holds, what it was made with and from.
_SHARDED = rules.scores.output if RANKED else []
_LAST = {
    "planted_rows": RAW_LONG if config["data"]["planted"] else [],
    "samples": rules.samples.output,
    "chats": rules.chats.output if RAW_SHORT else [],
    "index": rules.index.output if RANKED else [],
    "short_pass": _SHARDED,  # made once they are merged: a list of all shards would be long
    "long_pass": _SHARDED,
    "segment_pass": _SHARDED,
    "scores": _SHARDED,
    "contrast_pass": CONTRASTED,
    "contrast": CONTRASTED,
    "minhash": rules.minhash.output if any(map(leaves_out_near_duplicates, RANKED)) else [],
    "embeddings": rules.embeddings.output if any(map(takes_of_each_cluster, RANKED)) else [],
    "rewards": rules.rewards.output if any(map(reads_rewards, RANKED)) else [],
    "selection": expand([*rules.selection.output, *rules.plot_selection.output], experiment=RANKED)
    + list(rules.overview.output) * bool(RANKED),
    "comparison": rules.comparison.output if COMPARED else [],
    "choices": rules.choices.output if COMPARED else [],
    "sensitivity": rules.sensitivity.output if COMPARED else [],
    "tokens": expand(rules.tokens.output.tokens, source=SOURCES),
    "mixture": expand(rules.mixture.output, experiment=EXPERIMENTS),
    "plan": expand(rules.plan.output, experiment=EXPERIMENTS),
    "train": expand(rules.train.output.summary, experiment=EXPERIMENTS),
    "plot_train": rules.plot_train.output,
    "export": all_by_contents(f"{RESULTS}/export/{{experiment}}", experiment=EXPERIMENTS),
}
_PREDICTIONS = all_by_contents(f"{RESULTS}/predictions/{{model}}/{{benchmark}}", model=EVALUATED, benchmark=BENCHMARKS)
_LAST_EVALUATED = {
    "assets": all_by_contents(f"{RESULTS}/assets/{{benchmark}}", benchmark=BENCHMARKS),
    "generate": _PREDICTIONS,
    "predictions": _PREDICTIONS,
    "judge": expand(rules.judge.output.judgments, model=EVALUATED, benchmark=JUDGED),
    **{
        f"score_{benchmark}": expand(f"{RESULTS}/score_{benchmark}/{{model}}/scores.json", model=EVALUATED)
        for benchmark in SCORED
    },
    "leaderboard": [rules.leaderboard.output.csv] if SCORED and EVALUATED else [],
}
_LAST_EVALUATED = {folder: files for folder, files in _LAST_EVALUATED.items() if EVALUATED and BENCHMARKS and files}
_LAST_STUDIED = (
    {"miniature_runs": MINIATURE_RUNS, "miniature_summary": rules.miniature_summary.output}
    if config["miniature"]
    else {}
)
_SELECTION = [folder for folder in list(_LAST)[: list(_LAST).index("tokens")] if folder != "chats"]
_STUDY = [folder for folder in _SELECTION if folder not in ("comparison", "choices", "sensitivity")]


MANIFESTS = expand(f"{RESULTS}/{{folder}}/manifest.json", folder=[*filter(_LAST.get, _LAST), *_LAST_EVALUATED])
MANIFESTS_SELECTED = expand(f"{RESULTS}/{{folder}}/manifest.json", folder=filter(_LAST.get, _SELECTION))
MANIFESTS_EVALUATED = expand(f"{RESULTS}/{{folder}}/manifest.json", folder=_LAST_EVALUATED)
MANIFESTS_STUDIED = expand(f"{RESULTS}/{{folder}}/manifest.json", folder=[*filter(_LAST.get, _STUDY), *_LAST_STUDIED])


# it asks nothing of the configuration that is compared: another setting reruns it through what it changes
rule manifest:
    input:
        lambda wildcards: {**_LAST, **_LAST_EVALUATED, **_LAST_STUDIED}[wildcards.folder],
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
        results=lambda wildcards, input: RESULTS,
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
