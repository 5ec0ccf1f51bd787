# The paper in miniature: does a tiny model learn more from what a method selects? Generated rows only.
if config["miniature"]:

    rule miniature_runs:
        input:
            unpack(miniature_ranking),
            samples=rules.samples.output.samples,
        output:
            f"{RESULTS}/miniature_runs/{{cell}}-{{share}}.json",
        log:
            f"{RESULTS}/logs/miniature_runs/{{cell}}-{{share}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/miniature_runs/{{cell}}-{{share}}.tsv"
        wildcard_constraints:
            share=r"[0-9.]+",
        conda:
            "../../envs/gateau.yaml"
        resources:
            mem_mb=4000,
            runtime=120,
        params:
            script=script("miniature_runs"),
            code=code_digest("miniature_runs.py"),
            model=lambda wildcards, input: json.dumps(model("base"), sort_keys=True),
            weights=model_fingerprint("base"),
            own=verbatim(
                json.dumps({key: value for key, value in model("base").items() if key != "path"}, sort_keys=True)
            ),
            prompt=verbatim(config["scoring"]["prompt"]),
            planted=verbatim(json.dumps(config["data"]["planted"], sort_keys=True)),
            tokenizer=tokenizer_fingerprint(model("base")["path"], model("base").get("revision")),
            options=verbatim(
                json.dumps({k: v for k, v in config["miniature"].items() if k != "shares"}, sort_keys=True)
            ),
            files=lambda wildcards, input: named_files(input, "ranking"),
        shell:
            "python {params.script:q} --samples {input.samples:q} {params.files} --experiment {wildcards.cell:q}"
            " --share {wildcards.share} --model {params.model:q} --prompt {params.prompt:q}"
            " --planted {params.planted:q} --options {params.options:q} --output {output:q} > {log:q} 2>&1"

    rule miniature_summary:
        input:
            MINIATURE_RUNS,
        output:
            csv=f"{RESULTS}/miniature_summary/miniature.csv",
            markdown=report(
                f"{RESULTS}/miniature_summary/miniature.md",
                caption="../report/miniature.rst",
                category="Miniature",
                labels={"figure": "recall by method and share"},
            ),
            plot=report(
                f"{RESULTS}/miniature_summary/miniature.png",
                caption="../report/miniature.rst",
                category="Miniature",
                labels={"figure": "recall by method and share, plot"},
            ),
        log:
            f"{RESULTS}/logs/miniature_summary/miniature_summary.log",
        benchmark:
            f"{RESULTS}/benchmarks/miniature_summary/miniature_summary.tsv"
        conda:
            "../../envs/gateau.yaml"
        resources:
            mem_mb=4000,
            runtime=30,
        params:
            script=script("miniature_summary"),
            code=code_digest("miniature_summary.py"),
        shell:
            "python {params.script:q} --runs {input:q} --csv {output.csv:q} --markdown {output.markdown:q}"
            " --plot {output.plot:q} > {log:q} 2>&1"
