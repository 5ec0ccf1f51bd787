# The shards become one table of scores, and each experiment ranks it its own way. No rule here needs a GPU.


rule scores:
    input:
        index=rules.index.output,
        # functions, because Snakemake hashes a whole list once for each file in it
        short=shards_of("short_pass"),
        long=shards_of("long_pass"),
        segments=shards_of("segment_pass"),
    output:
        ensure(f"{RESULTS}/scores/scores.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/scores/scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/scores/scores.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        script=script("scores"),
        code=code_digest("scores.py"),
        lengths=f"--segment-length {config['cam']['segment_length']} {ATTENTION_BLOCK}",
        max_non_finite_share=lambda wildcards, input: config["scoring"]["max_non_finite_share"],
        folders=lambda wildcards, input: shard_folders(input, "short", "long", "segments"),
        shards=lambda wildcards, input: len(SHARDS),
    shell:
        "python {params.script:q} --index {input.index:q} {params.folders} --shards {params.shards}"
        " {params.lengths}"
        " --max-non-finite-share {params.max_non_finite_share} --output {output:q} > {log:q} 2>&1"


# Of which samples all segments are read; runs only if scoring.screen is set. It needs the other two passes.
rule screen:
    input:
        index=rules.index.output,
        short=shards_of("short_pass"),
        long=shards_of("long_pass"),
    output:
        ensure(f"{RESULTS}/screen/screen.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/screen/screen.log",
    benchmark:
        f"{RESULTS}/benchmarks/screen/screen.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        script=script("screen"),
        code=code_digest("screen.py"),
        share=config["scoring"]["screen"],
        folders=lambda wildcards, input: shard_folders(input, "short", "long"),
        shards=lambda wildcards, input: len(SHARDS),
    shell:
        "python {params.script:q} --index {input.index:q} {params.folders} --shards {params.shards}"
        " --share {params.share} --output {output:q} > {log:q} 2>&1"


rule contrast:
    input:
        index=rules.index.output,
        shards=shards_of("contrast_pass/{contrast}"),
    output:
        ensure(f"{RESULTS}/contrast/{{contrast}}.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/contrast/{{contrast}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/contrast/{{contrast}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        script=script("contrast"),
        code=code_digest("contrast.py"),
        max_non_finite_share=lambda wildcards, input: config["scoring"]["max_non_finite_share"],
        folder=lambda wildcards, input: str(Path(input.shards[0]).parent),
        shards=lambda wildcards, input: len(SHARDS),
    shell:
        "python {params.script:q} --index {input.index:q} --folder {params.folder:q} --shards {params.shards}"
        " --max-non-finite-share {params.max_non_finite_share} --output {output:q} > {log:q} 2>&1"


CONTRASTED = expand(rules.contrast.output, contrast=CONFIGURED.contrasts)


# MinHash signatures of the texts' word 5-grams, only if an experiment leaves out near duplicates
rule minhash:
    input:
        rules.samples.output.samples,
    output:
        ensure(f"{RESULTS}/minhash/signatures.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/minhash/minhash.log",
    benchmark:
        f"{RESULTS}/benchmarks/minhash/minhash.tsv"
    conda:
        "../../envs/gateau.yaml"
    threads: 8
    resources:
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        script=script("minhash"),
        code=code_digest("minhash.py"),
    shell:
        "python {params.script:q} --samples {input:q} --workers {threads} --output {output:q} > {log:q} 2>&1"


rule selection:
    input:
        unpack(selection_inputs),
        scores=rules.scores.output,
        samples=rules.samples.output.samples,
    output:
        ranking=ensure(f"{RESULTS}/selection/{{experiment}}/ranking.parquet", non_empty=True),
        parts=ensure(f"{RESULTS}/selection/{{experiment}}/parts.parquet", non_empty=True),
        selected=ensure(f"{RESULTS}/selection/{{experiment}}/gateau_long.jsonl", non_empty=True),
        summary=f"{RESULTS}/selection/{{experiment}}/summary.json",
    log:
        f"{RESULTS}/logs/selection/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/selection/{{experiment}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: (32000 if compares_samples(wildcards) else 8000) * attempt,
        runtime=lambda wildcards, attempt: (720 if compares_samples(wildcards) else 60) * attempt,
    params:
        script=script("selection"),
        code=code_digest("selection.py"),
        options=lambda wildcards: json.dumps(
            CONFIGURED.experiments[wildcards.experiment].selection_options(), sort_keys=True
        ),
        files=lambda wildcards, input: named_files(input, "contrast", "rewards", "signatures", "embeddings"),
    shell:
        "python {params.script:q} --scores {input.scores:q} --samples {input.samples:q} {params.files}"
        " --experiment {wildcards.experiment:q} --options {params.options:q} --ranking {output.ranking:q}"
        " --parts {output.parts:q} --selected {output.selected:q} --summary {output.summary:q} > {log:q} 2>&1"


rule plot_selection:
    input:
        ranking=rules.selection.output.ranking,
        summary=rules.selection.output.summary,
        scores=rules.scores.output,
        samples=rules.samples.output.samples,
    output:
        report(
            f"{RESULTS}/selection/{{experiment}}/distributions.png",
            caption="../report/distributions.rst",
            category="2. Selection",
            labels={"experiment": "{experiment}", "figure": "score distributions"},
        ),
    log:
        f"{RESULTS}/logs/plot_selection/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_selection/{{experiment}}.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        script=script("plot_selection"),
        code=code_digest("plot_selection.py"),
    shell:
        "python {params.script:q} --ranking {input.ranking:q} --summary {input.summary:q} --scores {input.scores:q}"
        " --samples {input.samples:q} --output {output:q} > {log:q} 2>&1"


rule overview:
    input:
        intake=rules.samples.output.summary,
        summaries=expand(rules.selection.output.summary, experiment=RANKED),
    output:
        report(
            f"{RESULTS}/selection/overview.md",
            caption="../report/overview.rst",
            category="2. Selection",
            labels={"experiment": "all", "figure": "overview"},
        ),
    log:
        f"{RESULTS}/logs/overview/overview.log",
    benchmark:
        f"{RESULTS}/benchmarks/overview/overview.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        script=script("overview"),
        code=code_digest("overview.py"),
    shell:
        "python {params.script:q} --intake {input.intake:q} --summaries {input.summaries:q} --output {output:q}"
        " > {log:q} 2>&1"


# On labelled data: which method ranks the samples of comparison.positive first?
if CONFIGURED.is_compared:

    rule comparison:
        input:
            rankings=expand(rules.selection.output.ranking, experiment=RANKED),
            scores=rules.scores.output,
            samples=rules.samples.output.samples,
        output:
            csv=f"{RESULTS}/comparison/methods.csv",
            markdown=report(
                f"{RESULTS}/comparison/methods.md",
                caption="../report/comparison.rst",
                category="2. Selection",
                labels={"experiment": "all", "figure": "methods compared"},
            ),
            plot=report(
                f"{RESULTS}/comparison/methods.png",
                caption="../report/comparison.rst",
                category="2. Selection",
                labels={"experiment": "all", "figure": "methods compared, plot"},
            ),
        log:
            f"{RESULTS}/logs/comparison/comparison.log",
        benchmark:
            f"{RESULTS}/benchmarks/comparison/comparison.tsv"
        conda:
            "../../envs/gateau.yaml"
        resources:
            mem_mb=4000,
            runtime=30,
        params:
            script=script("comparison"),
            code=code_digest("comparison.py"),
            positive=no_wildcards(shlex.join(config["comparison"]["positive"])),
            resamples=config["comparison"]["resamples"],
            seed=config["comparison"]["seed"],
        shell:
            "python {params.script:q} --rankings {input.rankings:q} --scores {input.scores:q}"
            " --samples {input.samples:q} --positive {params.positive} --resamples {params.resamples}"
            " --seed {params.seed} --csv {output.csv:q} --markdown {output.markdown:q} --plot {output.plot:q}"
            " > {log:q} 2>&1"

    # the same question for every combination of the options that the paper leaves open
    rule choices:
        input:
            scores=rules.scores.output,
            samples=rules.samples.output.samples,
        output:
            csv=f"{RESULTS}/choices/choices.csv",
            markdown=report(
                f"{RESULTS}/choices/choices.md",
                caption="../report/choices.rst",
                category="2. Selection",
                labels={"experiment": "all", "figure": "open choices"},
            ),
        log:
            f"{RESULTS}/logs/choices/choices.log",
        benchmark:
            f"{RESULTS}/benchmarks/choices/choices.tsv"
        conda:
            "../../envs/gateau.yaml"
        resources:
            mem_mb=8000,
            runtime=lambda wildcards, attempt: 120 * attempt,
        params:
            script=script("choices"),
            code=code_digest("choices.py"),
            positive=no_wildcards(shlex.join(config["comparison"]["positive"])),
            resamples=config["comparison"]["resamples"],
            seed=config["comparison"]["seed"],
        shell:
            "python {params.script:q} --scores {input.scores:q} --samples {input.samples:q}"
            " --positive {params.positive} --resamples {params.resamples} --seed {params.seed}"
            " --csv {output.csv:q} --markdown {output.markdown:q} > {log:q} 2>&1"

    # how far a ranking moves when something changes that should not matter
    rule sensitivity:
        input:
            rules.scores.output,
        output:
            csv=f"{RESULTS}/sensitivity/sensitivity.csv",
            markdown=report(
                f"{RESULTS}/sensitivity/sensitivity.md",
                caption="../report/sensitivity.rst",
                category="2. Selection",
                labels={"experiment": "all", "figure": "sensitivity"},
            ),
        log:
            f"{RESULTS}/logs/sensitivity/sensitivity.log",
        benchmark:
            f"{RESULTS}/benchmarks/sensitivity/sensitivity.tsv"
        conda:
            "../../envs/gateau.yaml"
        resources:
            mem_mb=8000,
            runtime=60,
        params:
            script=script("sensitivity"),
            code=code_digest("sensitivity.py"),
            options=as_json({name: config["selection"][name] for name in FORMULA}),
            seed=config["comparison"]["seed"],
        shell:
            "python {params.script:q} --scores {input:q} --options {params.options:q} --seed {params.seed}"
            " --csv {output.csv:q} --markdown {output.markdown:q} > {log:q} 2>&1"
