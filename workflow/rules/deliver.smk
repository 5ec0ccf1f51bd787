# What comes out for other programs: all rows with their scores, and a data set of each experiment. Nothing needs a GPU.
DELIVERED = CONFIGURED.delivered
# what a draw of long rows depends on
DRAW_OPTIONS = ("method", "n_long", "held_out", "seed")
# options of a training that the configurations of other trainers have, too
SHARED_TRAIN_OPTIONS = (
    *("learning_rate", "lr_scheduler", "warmup_share", "weight_decay", "adam_beta1", "adam_beta2"),
    *("max_grad_norm", "optimizer", "lora", "seed"),
)


# all rows, the rejected ones too
rule scored:
    input:
        raw=raw_data("data.long", RAW_LONG),
        samples=rules.samples.output.samples,
        rejects=rules.samples.output.rejects,
        scores=rules.scores.output if RANKED else [],
        rankings=expand(rules.selection.output.ranking, experiment=RANKED),
        selections=expand(rules.selection.output.summary, experiment=RANKED),
        tokens=f"{RESULTS}/tokens/long.parquet" if CONFIGURED.drawn_by_tokens else [],
    output:
        ensure(f"{RESULTS}/scored/scored.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/scored/scored.log",
    benchmark:
        f"{RESULTS}/benchmarks/scored/scored.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        script=script("scored"),
        code=code_digest("scored.py"),
        experiments=as_json(
            {
                name: {option: experiment.options[option] for option in DRAW_OPTIONS}
                for name, experiment in CONFIGURED.experiments.items()
            }
        ),
        files=lambda wildcards, input: named_files(input, "scores", "tokens"),
    shell:
        "python {params.script:q} --input {input.raw:q} --samples {input.samples:q} --rejects {input.rejects:q}"
        " {params.files} --experiments {params.experiments:q} --rankings {input.rankings:q}"
        " --selections {input.selections:q} --output {output:q} > {log:q} 2>&1"


rule dataset:
    input:
        unpack(data_set_inputs),
        samples=rules.samples.output.samples,
        intake=rules.samples.output.summary,
    output:
        folder=directory(f"{RESULTS}/dataset/{{experiment}}"),
        contents=contents_of(f"{RESULTS}/dataset/{{experiment}}"),
    log:
        f"{RESULTS}/logs/dataset/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/dataset/{{experiment}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        script=script("dataset"),
        code=code_digest("dataset.py"),
        options=experiment_options(*DRAW_OPTIONS, "n_short"),
        # not compared: where a model lies does not count
        models=lambda wildcards, input: json.dumps(
            {role: CONFIGURED.model(role) for role in ("short", "long") if wildcards.experiment in RANKED}
        ),
        base=model_json("base"),
        base_options=as_json({**CONFIGURED.model("base"), "path": CONFIGURED.fingerprints("base")}),
        training=as_json(
            {
                "max_length": config["tokens"]["max_length"],
                "chat_template": CONFIGURED.format_settings["chat_template"],
                "plan": {"epochs": config["plan"]["epochs"]},
                "train": {name: config["train"][name] for name in SHARED_TRAIN_OPTIONS},
            }
        ),
        hub=as_json({name: config["export"][name] for name in ("data_hub_repository", "hub_private")}),
        files=lambda wildcards, input: named_files(input, "ranking", "selection", "plot", "long", "chats", "short"),
    shell:
        "python {params.script:q} --experiment {wildcards.experiment:q} --options {params.options:q}"
        " --samples {input.samples:q} --intake {input.intake:q} {params.files} --models {params.models:q}"
        " --base {params.base:q} --training {params.training:q} --hub {params.hub:q} --output {output.folder:q}"
        " --contents {output.contents:q} > {log:q} 2>&1"
