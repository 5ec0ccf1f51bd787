# Rows become tokens once; each experiment mixes, plans, trains and exports its own. GPUs are needed by training only.


rule tokens:
    input:
        lambda wildcards: (rules.samples.output.samples if wildcards.source == "long" else rules.chats.output.chats),
    output:
        tokens=ensure(f"{RESULTS}/tokens/{{source}}.parquet", non_empty=True),
        rejects=f"{RESULTS}/tokens/{{source}}_rejects.jsonl",
        summary=f"{RESULTS}/tokens/{{source}}_summary.json",
        text=f"{RESULTS}/tokens/{{source}}_preview.txt",
        html=report(
            f"{RESULTS}/tokens/{{source}}_preview.html",
            caption="../report/tokens.rst",
            category="Training",
            labels={"data": "{source}", "figure": "rendered rows"},
        ),
    log:
        f"{RESULTS}/logs/tokens/{{source}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tokens/{{source}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    threads: 8
    resources:
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        script=script("tokens"),
        code=code_digest("tokens.py"),
        # the files of the tokenizer count, not where they lie
        model=lambda wildcards, input: json.dumps(model("base"), sort_keys=True),
        tokenizer=tokenizer_fingerprint(model("base")["path"], model("base").get("revision")),
        format=config["tokens"]["format"],
        max_length=config["tokens"]["max_length"],
        over_long=config["tokens"]["over_long"],
        max_rejected_share=config["tokens"]["max_rejected_share"],
        preview=config["tokens"]["preview"],
    shell:
        "python {params.script:q} --rows {input:q} --source {wildcards.source} --model {params.model:q}"
        " --format {params.format} --max-length {params.max_length} --over-long {params.over_long}"
        " --max-rejected-share {params.max_rejected_share} --preview {params.preview} --workers {threads}"
        " --tokens {output.tokens:q} --rejects {output.rejects:q} --summary {output.summary:q}"
        " --preview-text {output.text:q} --preview-html {output.html:q} > {log:q} 2>&1"


rule mixture:
    input:
        unpack(tokens_by_source),
        unpack(ranking_if_any),
    output:
        mixture=ensure(f"{RESULTS}/mixture/{{experiment}}/mixture.parquet", non_empty=True),
        summary=f"{RESULTS}/mixture/{{experiment}}/summary.json",
    log:
        f"{RESULTS}/logs/mixture/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/mixture/{{experiment}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=30,
    params:
        script=script("mixture"),
        code=code_digest("mixture.py"),
        options=experiment_options("method", "n_long", "n_short", "held_out", "seed"),
        files=lambda wildcards, input: named_files(input, "long", "short", "ranking"),
    shell:
        "python {params.script:q} --experiment {wildcards.experiment:q} --options {params.options:q} {params.files}"
        " --mixture {output.mixture:q} --summary {output.summary:q} > {log:q} 2>&1"


rule plan:
    input:
        rules.mixture.output.mixture,
    output:
        plan=ensure(f"{RESULTS}/plan/{{experiment}}/plan.parquet", non_empty=True),
        statistics=f"{RESULTS}/plan/{{experiment}}/statistics.json",
    log:
        f"{RESULTS}/logs/plan/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plan/{{experiment}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=30,
    params:
        script=script("plan"),
        code=code_digest("plan.py"),
        options=verbatim(json.dumps(config["plan"], sort_keys=True)),
        # not compared: a plan serves any number of ranks
        world_size=lambda wildcards, input: WORLD_SIZE,
    shell:
        "python {params.script:q} --mixture {input:q} --options {params.options:q} --world-size {params.world_size}"
        " --plan {output.plan:q} --statistics {output.statistics:q} > {log:q} 2>&1"


rule train:
    input:
        unpack(tokens_by_source),
        mixture=rules.mixture.output.mixture,
        plan=rules.plan.output.plan,
    output:
        model=directory(f"{RESULTS}/train/{{experiment}}/model"),
        history=f"{RESULTS}/train/{{experiment}}/history.jsonl",
        summary=f"{RESULTS}/train/{{experiment}}/summary.json",
    log:
        f"{RESULTS}/logs/train/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{experiment}}.tsv"
    # a training that was told to stop goes on from its checkpoint, in a job of its own: not within the one that ends
    retries: 3 if workflow.is_main_process else 0
    conda:
        "../../envs/gateau.yaml"
    threads: config["train"]["threads"] * config["train"]["ranks_per_node"]
    resources:
        **TRAIN_PLACES,
        # of each node; the same for every attempt, since most follow a stop that was asked for
        mem_mb=min(64000 * config["train"]["ranks_per_node"], 256000),
        runtime=2880,
    params:
        script=script("train"),
        code=code_digest("train.py"),
        base=lambda wildcards, input: json.dumps(model("base"), sort_keys=True),
        weights=model_fingerprint("base"),
        options=verbatim(json.dumps({name: config["train"][name] for name in TRAIN_OPTIONS}, sort_keys=True)),
        run=lambda wildcards, input: json.dumps(run_options(wildcards.experiment), sort_keys=True),
        files=lambda wildcards, input: named_files(input, "mixture", "plan", "long", "short"),
        # as many as it starts ranks, whatever limit Snakemake was given; on several nodes SLURM sees to it
        lease=lambda wildcards, input: lease(GPUS_PER_NODE if NODES == 1 else 0),
    # a signal to all processes of a job is meant for the training; bash waits for it
    shell:
        "trap : TERM USR1; "
        "{params.lease} python {params.script:q} --experiment {wildcards.experiment:q} {params.files}"
        " --base {params.base:q} --options {params.options:q} --run {params.run:q}"
        " --model {output.model:q} --history {output.history:q} --summary {output.summary:q} > {log:q} 2>&1"


rule plot_train:
    input:
        expand(rules.train.output.history, experiment=EXPERIMENTS),
    output:
        report(
            f"{RESULTS}/plot_train/losses.png",
            caption="../report/losses.rst",
            category="Training",
            labels={"experiment": "all", "figure": "losses"},
        ),
    log:
        f"{RESULTS}/logs/plot_train/plot_train.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_train/plot_train.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        script=script("plot_train"),
        code=code_digest("plot_train.py"),
    shell:
        "python {params.script:q} --histories {input:q} --output {output:q} > {log:q} 2>&1"


rule export:
    input:
        # no two trainings have one summary (it tells their seconds), so it counts for the weights
        model=ancient(f"{RESULTS}/train/{{experiment}}/model"),
        summary=rules.train.output.summary,
        mixture=rules.mixture.output.summary,
        plan=rules.plan.output.statistics,
        selection=lambda wildcards: rules.selection.output.summary if is_ranked(wildcards.experiment) else [],
    output:
        model=directory(f"{RESULTS}/export/{{experiment}}"),
        contents=contents_of(f"{RESULTS}/export/{{experiment}}"),
    log:
        f"{RESULTS}/logs/export/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/export/{{experiment}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 32000 * attempt,
        runtime=120,
    params:
        script=script("export"),
        code=code_digest("export.py"),
        base=lambda wildcards, input: json.dumps(model("base"), sort_keys=True),
        tokenizer=tokenizer_fingerprint(model("base")["path"], model("base").get("revision")),
        format=config["tokens"]["format"],
        hub=verbatim(json.dumps(config["export"], sort_keys=True)),
        files=lambda wildcards, input: named_files(input, "model", "summary", "mixture", "plan", "selection"),
    shell:
        "python {params.script:q} --experiment {wildcards.experiment:q} {params.files} --base {params.base:q}"
        " --format {params.format} --hub {params.hub:q} --output {output.model:q} --contents {output.contents:q}"
        " > {log:q} 2>&1"
