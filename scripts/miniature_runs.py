"""Rule ``miniature_runs``: train the tiny model on an experiment's best rows and measure its recall.

The model is fine-tuned once per seed. Share 0 trains nothing and measures the model as it is.
"""

import json
import logging

from gateau.command import argument_parser, progress, run
from gateau.errors import SettingsError
from gateau.files import write_json
from gateau.model_files import ModelSpec
from gateau.models import Runtime, load_config, load_model, load_tokenizer, resolved
from gateau.planted import PlantedShape
from gateau.prompts import PromptEncoder


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--samples", required=True, help="samples.parquet of rule samples")
    parser.add_argument("--ranking", help="ranking.parquet (default: the rows are drawn at random)")
    parser.add_argument("--experiment", required=True, help="name of the experiment, for the results")
    parser.add_argument("--share", type=float, required=True, help="share of the rows to train on, from 0 to 1")
    parser.add_argument("--model", type=json.loads, required=True, help="configuration section models.base as JSON")
    parser.add_argument("--prompt", required=True, help="prompt template, scoring.prompt")
    parser.add_argument("--planted", type=json.loads, required=True, help="configuration section data.planted as JSON")
    parser.add_argument(
        "--options", type=json.loads, required=True, help="configuration section miniature without shares, as JSON"
    )
    parser.add_argument("--output", required=True, help="output: results of all seeds (.json)")
    args = parser.parse_args()

    import torch

    from gateau.miniature.runs import StudyOptions, as_json, choose, evaluate, finetune, questions
    from gateau.schemas import SAMPLES
    from gateau.selection.selected import read_distinct_ids
    from gateau.tables import read_rows

    options = StudyOptions(**args.options)
    torch.set_num_threads(1)
    spec = resolved(ModelSpec.from_config(args.model))
    tokenizer, config = load_tokenizer(spec), load_config(spec)
    if tokenizer.eos_token_id is None:
        raise SettingsError(f"{spec.path}: the tokenizer has no end-of-sequence token, which responses must end with")
    encoder = PromptEncoder(tokenizer, args.prompt)
    samples = {row["id"]: row for row in read_rows(args.samples, SAMPLES)}
    ranking = read_distinct_ids(args.ranking) if args.ranking else None
    shape = PlantedShape(min_lines=args.planted["min_lines"], max_lines=args.planted["max_lines"])
    # another seed than that of the training rows, so that the questions are new
    asked = questions(encoder, shape, options.evaluated_rows, args.planted["seed"] + 1)

    runs = []
    for seed in progress(range(options.seeds if args.share else 1), args.experiment, "training"):
        chosen = [samples[row_id] for row_id in choose(list(samples), ranking, args.share, seed)] if args.share else []
        model = load_model(spec, config, Runtime("cpu", "float32", "sdpa"))
        if chosen:
            columns = ([row[name] for row in chosen] for name in ("context", "instruction", "response"))
            finetune(model, encoder.encode(*columns), options, tokenizer.eos_token_id, seed)
        results = {skill: evaluate(model, rows, tokenizer.eos_token_id) for skill, rows in asked.items()}
        runs.append(as_json(args.experiment, args.share, seed, len(chosen), results))
        logging.info("seed %d: %s", seed, {skill: sum(one.recalled) for skill, one in results.items()})
    write_json(args.output, runs)


if __name__ == "__main__":
    run(main)
