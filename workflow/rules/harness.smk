# Tasks of lm-evaluation-harness: one job per model and task. Nothing runs unless evaluate.harness.tasks names a task.


rule harness:
    input:
        unpack(export_if_any),
    output:
        scores=f"{RESULTS}/harness/{{model}}/{{task}}/scores.json",
        item_scores=f"{RESULTS}/harness/{{model}}/{{task}}/items.jsonl",
        answers=f"{RESULTS}/harness/{{model}}/{{task}}/answers.jsonl",
    log:
        f"{RESULTS}/logs/harness/{{model}}/{{task}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/harness/{{model}}/{{task}}.tsv"
    wildcard_constraints:
        task="|".join(map(re.escape, HARNESS)) or "none",
    conda:
        "../../envs/harness.yaml"
    threads: config["evaluate"]["generate"]["threads"]
    resources:
        gpu=lambda wildcards: EVALUATION.gpus(wildcards.model),
        mem_mb=lambda wildcards, attempt: EVALUATION.memory_mb(wildcards.model) * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        script=script("harness"),
        code=code_digest("harness.py"),
        version=harness_version(),
        # The path is not compared. Of an experiment's model, the input counts; of a given model, its files and options.
        model=evaluated_model,
        identity=evaluated_identity,
        options=harness_options,
        own_tasks=own_tasks_digest(EVALUATE["harness"]),
        settings=generate_settings("max_length", "share_prefixes"),
        served=served_as,
        # not compared: where and how the job runs
        run=harness_run,
        lease=lambda wildcards, input: lease(EVALUATION.gpus(wildcards.model)),
    shell:
        "{params.lease} python {params.script:q} --task {wildcards.task:q} --model {params.model:q}"
        " --options {params.options:q} {params.settings} {params.run} --output {output.scores:q}"
        " --items {output.item_scores:q} --answers {output.answers:q} > {log:q} 2>&1"
