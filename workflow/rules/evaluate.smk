# Every trained or given model answers the benchmarks. Answers become predictions, judgments, scores and a leaderboard.
# Only generate needs GPUs; only assets and judge need the network.


# not on a cluster's nodes, which often have no network
rule assets:
    output:
        folder=directory(f"{RESULTS}/assets/{{benchmark}}"),
        contents=contents_of(f"{RESULTS}/assets/{{benchmark}}"),
    log:
        f"{RESULTS}/logs/assets/{{benchmark}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/assets/{{benchmark}}.tsv"
    localrule: True
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        script=script("assets"),
        code=lambda wildcards: code_digest("assets.py", all_benchmarks.module_of(wildcards.benchmark)),
        source=assets_source,
        files=assets_digest,
        # not compared: where files are kept changes nothing, because they are verified
        places=lambda wildcards, input: assets_places(),
    shell:
        "python {params.script:q} --benchmark {wildcards.benchmark} {params.source} {params.places}"
        " --output {output.folder:q} --contents {output.contents:q} > {log:q} 2>&1"


rule generate:
    input:
        unpack(export_if_any),
        **by_contents("assets", f"{RESULTS}/assets/{{benchmark}}"),
    output:
        f"{RESULTS}/generate/{{model}}/{{benchmark}}/{{part}}.jsonl",
    log:
        f"{RESULTS}/logs/generate/{{model}}/{{benchmark}}/{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/generate/{{model}}/{{benchmark}}/{{part}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    threads: config["evaluate"]["generate"]["threads"]
    resources:
        gpu=lambda wildcards: EVALUATION.gpus(wildcards.model),
        mem_mb=lambda wildcards, attempt: EVALUATION.memory_mb(wildcards.model) * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        script=script("generate"),
        code=lambda wildcards: code_digest("generate.py", all_benchmarks.module_of(wildcards.benchmark)),
        # The path is not compared. Of an experiment's model, the input counts; of a given model, its files and options.
        model=evaluated_model,
        identity=evaluated_identity,
        options=lambda wildcards: json.dumps(EVALUATION.question_options(wildcards.benchmark), sort_keys=True),
        settings=generate_settings(),
        served=served_as,
        run=generate_run,
        part=lambda wildcards, input: shard_arguments(wildcards),
        # not compared: a model answers other benchmarks while it is loaded, so their jobs find their answers stored
        ahead=asked_ahead,
        lease=lambda wildcards, input: lease(EVALUATION.gpus(wildcards.model)),
    shell:
        "{params.lease} python {params.script:q} --benchmark {wildcards.benchmark} --assets {input.assets:q}"
        " --model {params.model:q} --options {params.options:q} {params.settings} {params.run} {params.part}"
        " --ahead {params.ahead:q} --output {output:q} > {log:q} 2>&1"


rule answers:
    input:
        answers=[file for model in EVALUATED for name in BENCHMARKS for file in answer_files(model, name)],
        scores=expand(f"{RESULTS}/score_{{benchmark}}/{{model}}/scores.json", benchmark=SCORED, model=EVALUATED),
        item_scores=expand(f"{RESULTS}/score_{{benchmark}}/{{model}}/items.jsonl", benchmark=SCORED, model=EVALUATED),
        harness=[],  # the harness keeps its answers itself
    output:
        f"{RESULTS}/answers/answers.parquet",
    log:
        f"{RESULTS}/logs/answers/answers.log",
    benchmark:
        f"{RESULTS}/benchmarks/answers/answers.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        script=script("answers"),
        code=code_digest("answers.py"),
        files=files_of_answers,
        folders=score_folders,
    shell:
        "python {params.script:q} --answers {params.files:q} --scores {params.folders:q} --output {output:q} > {log:q} 2>&1"


rule predictions:
    input:
        answers_of,
    output:
        folder=directory(f"{RESULTS}/predictions/{{model}}/{{benchmark}}"),
        contents=contents_of(f"{RESULTS}/predictions/{{model}}/{{benchmark}}"),
    log:
        f"{RESULTS}/logs/predictions/{{model}}/{{benchmark}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/predictions/{{model}}/{{benchmark}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        script=script("predictions"),
        code=lambda wildcards: code_digest("predictions.py", all_benchmarks.module_of(wildcards.benchmark)),
    shell:
        "python {params.script:q} --benchmark {wildcards.benchmark} --model-name {wildcards.model:q} --answers {input:q}"
        " --output {output.folder:q} --contents {output.contents:q} > {log:q} 2>&1"


rule judge:
    input:
        **by_contents("predictions", f"{RESULTS}/predictions/{{model}}/{{benchmark}}"),
        **by_contents("assets", f"{RESULTS}/assets/{{benchmark}}"),
    output:
        judgments=f"{RESULTS}/judge/{{model}}/{{benchmark}}/judgments.jsonl",
        summary=f"{RESULTS}/judge/{{model}}/{{benchmark}}/summary.json",
    log:
        f"{RESULTS}/logs/judge/{{model}}/{{benchmark}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/judge/{{model}}/{{benchmark}}.tsv"
    # Each start has the whole budget, so only the user may start it again.
    retries: 0
    # a judge that the job starts needs GPUs; any other one needs the network, which a cluster's nodes often lack
    localrule: JUDGE_START is None
    conda:
        "../../envs/gateau.yaml"
    resources:
        gpu=EVALUATION.judge_gpus,
        mem_mb=64000 if JUDGE_START else 4000,
        runtime=720,
    params:
        script=script("judge"),
        code=lambda wildcards: code_digest("judge.py", all_benchmarks.module_of(wildcards.benchmark)),
        start=lambda wildcards, input: stand_in_start(),
        served=no_wildcards(EVALUATION.judge_served),
        lease=lambda wildcards, input: lease(EVALUATION.judge_gpus),
        asked=no_wildcards(judge_arguments(*JUDGE_ASKED)),
        # not compared: how the judge is reached changes nothing
        reached=judge_reached,
    shell:
        "{params.lease} {params.start} python {params.script:q} --benchmark {wildcards.benchmark} --predictions {input.predictions:q}"
        " --assets {input.assets:q} {params.asked} {params.reached} --output {output.judgments:q}"
        " --summary {output.summary:q} > {log:q} 2>&1"


rule score_longbench:
    input:
        unpack(scorer_input("longbench")),
    output:
        scores=f"{RESULTS}/score_longbench/{{model}}/scores.json",
        item_scores=f"{RESULTS}/score_longbench/{{model}}/items.jsonl",
        table=report(
            f"{RESULTS}/score_longbench/{{model}}/table.md",
            caption="../report/scores.rst",
            category="4. Evaluation",
            labels={"model": "{model}", "benchmark": "LongBench"},
        ),
    log:
        f"{RESULTS}/logs/score_longbench/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/score_longbench/{{model}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        script=script("score_longbench"),
        code=code_digest("score_longbench.py"),
        protocol=config["evaluate"]["longbench"]["protocol"],
        labels=score_labels("longbench"),
        judged=lambda wildcards, input: judged_arguments(input),
    shell:
        "python {params.script:q} --predictions {input.predictions:q} {params.judged} --protocol {params.protocol}"
        " {params.labels} --output {output.scores:q} --items {output.item_scores:q} --table {output.table:q} > {log:q} 2>&1"


rule score_longbench_chat:
    input:
        unpack(scorer_input("longbench_chat")),
    output:
        scores=f"{RESULTS}/score_longbench_chat/{{model}}/scores.json",
        item_scores=f"{RESULTS}/score_longbench_chat/{{model}}/items.jsonl",
        table=report(
            f"{RESULTS}/score_longbench_chat/{{model}}/table.md",
            caption="../report/scores.rst",
            category="4. Evaluation",
            labels={"model": "{model}", "benchmark": "LongBench-Chat"},
        ),
    log:
        f"{RESULTS}/logs/score_longbench_chat/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/score_longbench_chat/{{model}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        script=script("score_longbench_chat"),
        code=code_digest("score_longbench_chat.py"),
        protocol=config["evaluate"]["longbench_chat"]["protocol"],
        labels=score_labels("longbench_chat"),
        judged=lambda wildcards, input: judged_arguments(input),
    shell:
        "python {params.script:q} --predictions {input.predictions:q} {params.judged} --protocol {params.protocol}"
        " {params.labels} --output {output.scores:q} --items {output.item_scores:q} --table {output.table:q} > {log:q} 2>&1"


rule score_needle:
    input:
        unpack(scorer_input("needle")),
    output:
        scores=f"{RESULTS}/score_needle/{{model}}/scores.json",
        item_scores=f"{RESULTS}/score_needle/{{model}}/items.jsonl",
        table=f"{RESULTS}/score_needle/{{model}}/table.md",
        heatmap=report(
            f"{RESULTS}/score_needle/{{model}}/heatmap.png",
            caption="../report/needle.rst",
            category="4. Evaluation",
            labels={"model": "{model}", "benchmark": "Needle"},
        ),
        judged=[f"{RESULTS}/score_needle/{{model}}/judge_heatmap.png"] * ("needle" in JUDGED),
    log:
        f"{RESULTS}/logs/score_needle/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/score_needle/{{model}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        script=script("score_needle"),
        code=code_digest("score_needle.py"),
        labels=score_labels("needle"),
        judged=lambda wildcards, input, output: judged_arguments(input, output.judged),
    shell:
        "python {params.script:q} --predictions {input.predictions:q} {params.judged} {params.labels}"
        " --title {wildcards.model:q} --output {output.scores:q} --items {output.item_scores:q} --table {output.table:q}"
        " --heatmap {output.heatmap:q} > {log:q} 2>&1"


rule score_mt_bench:
    input:
        unpack(scorer_input("mt_bench")),
        **by_contents("assets", f"{RESULTS}/assets/mt_bench"),
    output:
        scores=f"{RESULTS}/score_mt_bench/{{model}}/scores.json",
        item_scores=f"{RESULTS}/score_mt_bench/{{model}}/items.jsonl",
        table=report(
            f"{RESULTS}/score_mt_bench/{{model}}/table.md",
            caption="../report/scores.rst",
            category="4. Evaluation",
            labels={"model": "{model}", "benchmark": "MT-Bench"},
        ),
        # the name and the format are FastChat's
        judgments=f"{RESULTS}/score_mt_bench/{{model}}/model_judgment/{JUDGE_NAME}_single.jsonl",
    log:
        f"{RESULTS}/logs/score_mt_bench/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/score_mt_bench/{{model}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        script=script("score_mt_bench"),
        code=code_digest("score_mt_bench.py"),
        labels=score_labels("mt_bench"),
        judged=lambda wildcards, input: judged_arguments(input),
    shell:
        "python {params.script:q} --predictions {input.predictions:q} --assets {input.assets:q} {params.judged}"
        " {params.labels} --output {output.scores:q} --items {output.item_scores:q} --table {output.table:q}"
        " --fastchat-judgments {output.judgments:q} > {log:q} 2>&1"


rule leaderboard:
    input:
        scores=expand(f"{RESULTS}/score_{{benchmark}}/{{model}}/scores.json", benchmark=SCORED, model=EVALUATED),
        item_scores=expand(f"{RESULTS}/score_{{benchmark}}/{{model}}/items.jsonl", benchmark=SCORED, model=EVALUATED),
        harness=expand(f"{RESULTS}/harness/{{model}}/{{task}}/scores.json", task=HARNESS, model=EVALUATED),
        harness_items=expand(f"{RESULTS}/harness/{{model}}/{{task}}/items.jsonl", task=HARNESS, model=EVALUATED),
    output:
        csv=f"{RESULTS}/leaderboard/leaderboard.csv",
        differences=f"{RESULTS}/leaderboard/differences.csv",
        markdown=f"{RESULTS}/leaderboard/leaderboard.md",
        html=report(
            f"{RESULTS}/leaderboard/leaderboard.html",
            caption="../report/leaderboard.rst",
            category="4. Evaluation",
            labels={"model": "all", "benchmark": "all"},
        ),
        plot=report(
            f"{RESULTS}/leaderboard/leaderboard.png",
            caption="../report/leaderboard.rst",
            category="4. Evaluation",
            labels={"model": "all", "benchmark": "all, plot"},
        ),
    log:
        f"{RESULTS}/logs/leaderboard/leaderboard.log",
    benchmark:
        f"{RESULTS}/benchmarks/leaderboard/leaderboard.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        script=script("leaderboard"),
        code=code_digest("leaderboard.py", *map(all_benchmarks.module_of, SCORED)),
        folders=score_folders,
        models=" ".join(EVALUATED),
        baseline=EVALUATION.baseline or "none",
        benchmarks=" ".join(SCORED),
        published=lambda wildcards, input: str(PUBLISHED),
        published_digest=files_digest(PUBLISHED),
    shell:
        "python {params.script:q} --scores {params.folders:q} --baseline {params.baseline:q}"
        " --published {params.published:q} --benchmarks {params.benchmarks} --csv {output.csv:q}"
        " --differences {output.differences:q} --markdown {output.markdown:q} --html {output.html:q}"
        " --plot {output.plot:q} > {log:q} 2>&1"


rule score_recall:
    input:
        unpack(scorer_input("recall")),
    output:
        scores=f"{RESULTS}/score_recall/{{model}}/scores.json",
        item_scores=f"{RESULTS}/score_recall/{{model}}/items.jsonl",
    log:
        f"{RESULTS}/logs/score_recall/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/score_recall/{{model}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        script=script("score_recall"),
        code=code_digest("score_recall.py"),
        labels=score_labels("recall"),
    shell:
        "python {params.script:q} --predictions {input.predictions:q} {params.labels} --output {output.scores:q}"
        " --items {output.item_scores:q} > {log:q} 2>&1"
