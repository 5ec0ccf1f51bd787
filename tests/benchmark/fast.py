"""Compare cheaper segment passes with the whole one, from the scores of one run that read all segments.

``python tests/benchmark/fast.py --scores scores.parquet --samples samples.parquet --positive planted/far ...``. Each
design is what ``scoring.screen`` and ``scoring.segments`` compute, by the same code. A cell holds the share of the best
tenth that the ranking has in common with the exact one, and the change of the AUROC of the positive labels. The cost is
the share of the segments that are read. The last rows need a stage that does not exist: the samples with the best
scores by a method get their other segments read, before the method ranks again.

Without ``--scores``, it prints the operations of a sample of 16k and 64k tokens under a model of Llama-2-7B's shape, by
``gateau.work``, which tests compare with torch's counter.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from gateau.costs.lengths import SampleLength
from gateau.costs.passes import ScoringPass
from gateau.reports import markdown_table
from gateau.schemas import SAMPLES, SCORES, SCREENED_OUT
from gateau.scoring.segments import Choice
from gateau.selection.fusion import SelectionOptions, guidance
from gateau.selection.method_scores import hmp_among_like_lengths
from gateau.selection.quality import auroc, comparable_scores
from gateau.selection.ranking import rank_samples
from gateau.selection.screening import best_share
from gateau.tables import read_table
from gateau.work import DecoderShape

LLAMA_2_7B = DecoderShape(
    layers=32, hidden=4096, heads=32, key_heads=32, head_width=128, mlp_width=11_008, all_experts_width=11_008,
    vocabulary=32_000, tied=False, windows=((None, 32),),
)  # fmt: skip
ROBUST_NORMS = {"hmp_norm": "log", "score_norm": "rank"}
METHODS = {
    "gateau": ("gateau", {}),
    "gateau, log and rank": ("gateau", ROBUST_NORMS),
    "the same, α 0.3": ("gateau", {**ROBUST_NORMS, "alpha": 0.3}),
    "gateau_robust": ("gateau_robust", {}),
    "cam": ("cam", {}),
    "ifd": ("ifd", {}),
}
SCREENED = (0.2, 0.3, 0.4, 0.5, 0.6)
IN_PART = ((0.5, 0.0), (0.0, 0.5), (0.2, 0.1), (0.3, 0.1), (0.4, 0.1), (0.3, 0.3))
BOTH = ((0.1, 0.15, 0.05), (0.1, 0.2, 0.1), (0.2, 0.15, 0.05), (0.2, 0.2, 0.1), (0.3, 0.2, 0.1), (0.3, 0.3, 0.1))
TWICE = ((0.2, 0.1, 0.15), (0.3, 0.1, 0.15))


class Study:
    """The exact scores of a run, and what cheaper passes make of them."""

    def __init__(self, scores, digests, labels, positive):
        self.scores = scores[scores["status"] == "ok"].sort_values("id", ignore_index=True)
        self.digests = self.scores["id"].map(digests)
        self.wanted = self.scores.set_index("id").index.to_series().map(labels).isin(positive)
        self.exact = {name: self._ranking(name, self.scores) for name in METHODS}
        self.segments = self.scores["segment_nll"].map(len).to_numpy()

    def _ranking(self, name, scores):
        method, options = METHODS[name]
        return rank_samples(scores, SelectionOptions(**options), method)

    def values(self, order):
        """What samples are screened by: as the rule does, or HMP whatever the length."""
        return hmp_among_like_lengths(self.scores) if order == "like lengths" else guidance(self.scores, "log")

    def left_out(self, share, order="like lengths"):
        """The scores with a screen alone, and the share of segments that are read."""
        out = ~best_share(self.values(order), share)
        scores = self.scores.assign(
            status=np.where(out, SCREENED_OUT, "ok"),
            **{
                name: self.scores[name].mask(out)
                for name in ("segment_nll", "nll_response_only", "nll_instruction_only")
            },
        )
        return scores, self.segments[~out].sum() / self.segments.sum()

    def in_part(self, whole, attended, drawn):
        """The scores with the others read in part, and the share of segments that are read.

        Args:
            whole: bool for each sample, whether all of its segments are read.
            attended: share of the segments; as are ``drawn``.
            drawn: 0 reads the attended ones only.
        """
        weights, nll = [None] * len(whole), self.scores["segment_nll"].tolist()
        for row in np.flatnonzero(~whole):
            weights[row] = self._weights(row, attended, drawn)
            nll[row] = np.where(weights[row] > 0, nll[row], np.nan)
        read = sum(n if one is None else (one > 0).sum() for n, one in zip(self.segments, weights, strict=True))
        return self.scores.assign(segment_nll=nll, segment_weight=weights), read / self.segments.sum()

    def _weights(self, row, attended, drawn):
        attention = np.asarray(self.scores["segment_attention"][row])
        if not drawn:
            weights = np.zeros(len(attention))
            weights[np.argsort(-attention, kind="stable")[: max(round(attended * len(attention)), 2)]] = 1.0
            return weights
        return Choice(attended, drawn, 1, 1).weights(attention, int(self.digests[row][:13], 16) / 16**13)

    def cell(self, name, scores):
        """Overlap of the best tenth, and the change of the AUROC."""
        found = self._ranking(name, scores)
        exact, count = self.exact[name], max(len(found) // 10, 1)
        overlap = len(set(exact["id"][:count]) & set(found["id"][:count])) / count
        areas = [auroc(comparable_scores(one), self.wanted.loc[one["id"]].to_numpy()) for one in (found, exact)]
        return f"{overlap:.2f} {areas[0] - areas[1]:+.3f}" if None not in areas else f"{overlap:.2f}"

    def row(self, title, scores, cost):
        return [title, f"{cost:.2f}", *(self.cell(name, scores) for name in METHODS)]

    def rows(self):
        for share in SCREENED:
            yield self.row(f"screen {share:g}", *self.left_out(share))
        yield self.row("screen 0.4, whatever the length", *self.left_out(0.4, "any length"))
        nothing = np.zeros(len(self.scores), dtype=bool)
        for attended, drawn in IN_PART:
            yield self.row(f"attended {attended:g}, drawn {drawn:g}", *self.in_part(nothing, attended, drawn))
        for share, attended, drawn in BOTH:
            whole = best_share(self.values("like lengths"), share)
            title = f"screen {share:g}, attended {attended:g}, drawn {drawn:g}"
            yield self.row(title, *self.in_part(whole, attended, drawn))
        for attended, drawn, share in TWICE:
            cells, costs = [], []
            first, _ = self.in_part(nothing, attended, drawn)
            for name in METHODS:
                ranking = self._ranking(name, first).set_index("id").loc[self.scores["id"]]
                whole = best_share(-ranking["rank"].to_numpy(dtype=float), share)
                scores, cost = self.in_part(whole, attended, drawn)
                cells.append(self.cell(name, scores))
                costs.append(cost)
            title = f"attended {attended:g}, drawn {drawn:g}, then the rest of the best {share:g}"
            yield [title, f"{np.mean(costs):.2f}", *cells]


def operations():
    """Rows of a table: recipes, and FLOP and ratios at two lengths. Instruction and frame have 100 tokens."""
    config = {"scoring": {"screen": None, "segments": None}, "cam": {"segment_length": 128}}
    segments = {"attended": 0.3, "drawn": 0.1}
    recipes = {
        "the paper's: stretched window, all segments": (None, {}),
        "truncate, all segments": (4096, {}),
        "truncate, screen 0.4": (4096, {"screen": 0.4}),
        "truncate, screen 0.3, attended 0.3, drawn 0.1": (4096, {"screen": 0.3, "segments": segments}),
        "truncate, screen 0, attended 0.3, drawn 0.1": (4096, {"screen": 0, "segments": segments}),
    }
    first = {}
    for name, (window, changes) in recipes.items():
        own = config | {"scoring": config["scoring"] | changes}
        cells = []
        for tokens in (16_384, 65_536):
            sample = SampleLength(context=tokens - 400, frame=400, response=300)
            passes = ("short_pass", window), ("long_pass", None), ("segment_pass", None)
            flops = [ScoringPass(rule, cut, own).flops(LLAMA_2_7B, sample) for rule, cut in passes]
            total = sum(flops)
            cells += [*(f"{one / 1e12:.0f}" for one in flops), f"{total / 1e12:.0f}"]
            cells.append(f"{first.setdefault(tokens, total) / total:.1f}")
        yield [name, *cells]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", help="scores.parquet of a run without scoring.screen")
    parser.add_argument("--samples", help="samples.parquet of the same run")
    parser.add_argument("--positive", nargs="+", help="labels of the samples to find")
    args = parser.parse_args()
    if not args.scores:
        columns = ["short", "long", "segments", "TFLOP", "cheaper"]
        titles = [f"{name}, {tokens}k" for tokens in (16, 64) for name in columns]
        print(markdown_table(["recipe", *titles], list(operations()), numbers=range(1, 11)))
        return
    samples = read_table(args.samples, SAMPLES).select(["id", "dataset", "digest"]).to_pandas().set_index("id")
    study = Study(read_table(args.scores, SCORES).to_pandas(), samples["digest"], samples["dataset"], args.positive)
    print(f"{len(study.scores)} samples, {study.segments.mean():.1f} segments on average\n")
    print(markdown_table(["design", "cost", *METHODS], list(study.rows()), numbers=range(1, 2 + len(METHODS))))


if __name__ == "__main__":
    main()
