# Raw rows become validated samples, and an index says which shard scores which sample.
from dataclasses import asdict

if CONFIGURED.hub_data:

    # not on a cluster's nodes, which often have no network
    rule hub_data:
        output:
            folder=directory(f"{RESULTS}/hub_data/{{data_set}}"),
            listing=f"{RESULTS}/hub_data/{{data_set}}.hub.json",
        log:
            f"{RESULTS}/logs/hub_data/{{data_set}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/hub_data/{{data_set}}.tsv"
        wildcard_constraints:
            data_set="|".join(map(re.escape, CONFIGURED.hub_data)),
        localrule: True
        conda:
            "../../envs/gateau.yaml"
        resources:
            mem_mb=2000,
            runtime=240,
        params:
            script=script("hub_data"),
            code=code_digest("hub_data.py"),
            # not compared: the name says what is fetched, and every file is verified, wherever it comes from
            entry=lambda wildcards, input: json.dumps(asdict(CONFIGURED.hub_data[wildcards.data_set])),
            mirror=lambda wildcards, input: named_files({"mirror": config["data"]["hub_mirror"]}, "mirror"),
        shell:
            "python {params.script:q} --entry {params.entry:q} {params.mirror} --folder {output.folder:q}"
            " --listing {output.listing:q} > {log:q} 2>&1"


if config["data"]["planted"]:

    rule planted_rows:
        output:
            **({"short": f"{RESULTS}/planted_rows/short.jsonl"} if config["data"]["planted"].get("chats") else {}),
            long=f"{RESULTS}/planted_rows/long.jsonl",
        log:
            f"{RESULTS}/logs/planted_rows/planted_rows.log",
        benchmark:
            f"{RESULTS}/benchmarks/planted_rows/planted_rows.tsv"
        conda:
            "../../envs/gateau.yaml"
        resources:
            mem_mb=2000,
            runtime=30,
        params:
            script=script("planted_rows"),
            code=code_digest("planted_rows.py"),
            planted=as_json(config["data"]["planted"]),
            chats=lambda wildcards, output: f"--chats {shlex.quote(output.short)}" if "short" in output.keys() else "",
        shell:
            "python {params.script:q} --planted {params.planted:q} --output {output.long:q} {params.chats}"
            " > {log:q} 2>&1"


rule samples:
    input:
        raw_data("data.long", RAW_LONG),
    output:
        samples=ensure(f"{RESULTS}/samples/samples.parquet", non_empty=True),
        rejects=f"{RESULTS}/samples/rejects.jsonl",
        summary=f"{RESULTS}/samples/summary.json",
        preview=f"{RESULTS}/samples/preview.txt",
        page=report(
            f"{RESULTS}/samples/preview.html",
            caption="../report/samples.rst",
            category="1. Data",
            labels={"rows": "ten random rows: context, instruction, response"},
        ),
    log:
        f"{RESULTS}/logs/samples/samples.log",
    benchmark:
        f"{RESULTS}/benchmarks/samples/samples.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        script=script("samples"),
        code=code_digest("samples.py"),
        duplicate_content=config["data"]["duplicate_content"],
        max_rejected_share=lambda wildcards, input: config["data"]["max_rejected_share"],
        options=as_json(CONFIGURED.intake_options("long")),
        model=lambda wildcards, input: f"--model {shlex.quote(model_json('long')(wildcards, input))}"
        * CONFIGURED.counts_tokens,
        tokenizer=tokenizer_of("long") if CONFIGURED.counts_tokens else "",
    shell:
        "python {params.script:q} --input {input:q} --samples {output.samples:q} --rejects {output.rejects:q}"
        " --summary {output.summary:q} --preview {output.preview:q} --preview-page {output.page:q}"
        " --options {params.options:q} {params.model} --duplicate-content {params.duplicate_content}"
        " --max-rejected-share {params.max_rejected_share} > {log:q} 2>&1"


if RAW_SHORT:

    rule chats:
        input:
            raw_data("data.short", RAW_SHORT),
        output:
            chats=ensure(f"{RESULTS}/chats/chats.parquet", non_empty=True),
            rejects=f"{RESULTS}/chats/rejects.jsonl",
            summary=f"{RESULTS}/chats/summary.json",
        log:
            f"{RESULTS}/logs/chats/chats.log",
        benchmark:
            f"{RESULTS}/benchmarks/chats/chats.tsv"
        conda:
            "../../envs/gateau.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: 4000 * attempt,
            runtime=lambda wildcards, attempt: 120 * attempt,
        params:
            script=script("chats"),
            code=code_digest("chats.py"),
            duplicate_content=config["data"]["duplicate_content"],
            max_rejected_share=lambda wildcards, input: config["data"]["max_rejected_share"],
            options=as_json(CONFIGURED.intake_options("short")),
        shell:
            "python {params.script:q} --input {input:q} --chats {output.chats:q} --rejects {output.rejects:q}"
            " --summary {output.summary:q} --options {params.options:q} --duplicate-content {params.duplicate_content}"
            " --max-rejected-share {params.max_rejected_share} > {log:q} 2>&1"


rule index:
    input:
        rules.samples.output.samples,
    output:
        ensure(f"{RESULTS}/index/index.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/index/index.log",
    benchmark:
        f"{RESULTS}/benchmarks/index/index.tsv"
    conda:
        "../../envs/gateau.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        **FRAME,
        script=script("index"),
        code=code_digest("index.py"),
        model=model_json("long"),
        tokenizer=tokenizer_of("long"),
        max_length=config["scoring"]["max_length"],
        shards=len(SHARDS),
    shell:
        "RAYON_NUM_THREADS={threads} python {params.script:q} --samples {input:q} --model {params.model:q}"
        " --prompt {params.prompt:q} --format {params.format} --template-options {params.template_options:q}"
        " --max-length {params.max_length} --shards {params.shards} --output {output:q} > {log:q} 2>&1"
