# Rows become tokens once. Each experiment mixes, plans, trains and exports its own. Only training needs GPUs.

# A plain `gpu` counts a job's GPUs in all, which SLURM may spread unevenly over nodes. So several nodes ask for theirs
# with `gres`, which counts the GPUs of each node, and `mpi` leaves starting a process on each node to the script.
if (NODES := config["train"]["nodes"]) == 1:
    TRAIN_PLACES = {"nodes": 1, "gpu": GPUS_PER_NODE}
else:
    TRAIN_PLACES = {"nodes": NODES, "mpi": "srun", "tasks": NODES, "tasks_per_gpu": 0}
    TRAIN_PLACES |= {"gres": f"gpu:{GPUS_PER_NODE}"} if GPUS_PER_NODE else {}


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
            category="3. Training",
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
        model=model_json("base"),
        tokenizer=tokenizer_of("base"),
        format=config["tokens"]["format"],
        format_settings=as_json(CONFIGURED.format_settings),
        max_length=config["tokens"]["max_length"],
        over_long=config["tokens"]["over_long"],
        max_rejected_share=lambda wildcards, input: config["tokens"]["max_rejected_share"],
        preview=lambda wildcards, input: config["tokens"]["preview"],
    shell:
        "python {params.script:q} --rows {input:q} --source {wildcards.source} --model {params.model:q}"
        " --format {params.format} --format-settings {params.format_settings:q} --max-length {params.max_length} --over-long {params.over_long}"
        " --max-rejected-share {params.max_rejected_share} --preview {params.preview} --workers {threads}"
        " --tokens {output.tokens:q} --rejects {output.rejects:q} --summary {output.summary:q}"
        " --preview-text {output.text:q} --preview-html {output.html:q} > {log:q} 2>&1"


rule mixture:
    input:
        unpack(tokens_by_source),
        unpack(ranking_if_any),
        samples=rules.samples.output.samples,
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
        files=lambda wildcards, input: named_files(input, "long", "short", "ranking", "selection"),
    shell:
        "python {params.script:q} --experiment {wildcards.experiment:q} --options {params.options:q}"
        " --samples {input.samples:q} {params.files} --mixture {output.mixture:q} --summary {output.summary:q} > {log:q} 2>&1"


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
        options=as_json(config["plan"]),
        # not compared: a plan serves any number of ranks
        world_size=lambda wildcards, input: CONFIGURED.world_size,
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
    # a training that was told to stop continues from its checkpoint in a new job, not within the one that ends
    retries: 3 if workflow.is_main_process else 0
    conda:
        "../../envs/gateau.yaml"
    threads: config["train"]["threads"] * config["train"]["ranks_per_node"]
    resources:
        **TRAIN_PLACES,
        # of each node; the same for every attempt, because most attempts follow a requested stop
        mem_mb=min(64000 * config["train"]["ranks_per_node"], 256000),
        runtime=2880,
        # ten minutes before its time limit, the training saves a checkpoint and ends; a retry continues it
        slurm_extra="--signal=USR1@600",
    params:
        script=script("train"),
        code=code_digest("train.py"),
        base=model_json("base"),
        weights=CONFIGURED.fingerprints("base")["weights"],
        base_options=as_json({key: value for key, value in CONFIGURED.model("base").items() if key != "path"}),
        options=as_json({name: config["train"][name] for name in TRAIN_OPTIONS}),
        run=run_options,
        files=lambda wildcards, input: named_files(input, "mixture", "plan", "long", "short"),
        # one GPU per rank, whatever limit Snakemake was given; on several nodes SLURM assigns them
        lease=lambda wildcards, input: lease(GPUS_PER_NODE if config["train"]["nodes"] == 1 else 0),
    # a signal to all processes of a job is meant for the training, so bash ignores it and waits
    shell:
        "trap : TERM USR1; "
        "{params.lease} python {params.script:q} --experiment {wildcards.experiment:q} {params.files}"
        " --base {params.base:q} --options {params.options:q} --run {params.run:q}"
        " --model {output.model:q} --history {output.history:q} --summary {output.summary:q} > {log:q} 2>&1"


rule plot_train:
    input:
        expand(rules.train.output.history, experiment=TRAINED),
    output:
        report(
            f"{RESULTS}/plot_train/losses.png",
            caption="../report/losses.rst",
            category="3. Training",
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
        # two trainings never have the same summary (it holds their seconds), so it stands for the weights
        model=ancient(f"{RESULTS}/train/{{experiment}}/model"),
        summary=rules.train.output.summary,
        mixture=rules.mixture.output.summary,
        plan=rules.plan.output.statistics,
        selection=lambda wildcards: rules.selection.output.summary if wildcards.experiment in RANKED else [],
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
        base=model_json("base"),
        tokenizer=tokenizer_of("base"),
        format=config["tokens"]["format"],
        format_settings=as_json(CONFIGURED.format_settings),
        hub=as_json({name: config["export"][name] for name in ("hub_repository", "hub_private")}),
        files=lambda wildcards, input: named_files(input, "model", "summary", "mixture", "plan", "selection"),
    shell:
        "python {params.script:q} --experiment {wildcards.experiment:q} {params.files} --base {params.base:q}"
        " --format {params.format} --format-settings {params.format_settings:q} --hub {params.hub:q} --output {output.model:q} --contents {output.contents:q}"
        " > {log:q} 2>&1"
