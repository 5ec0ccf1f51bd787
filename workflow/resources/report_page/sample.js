// The view of one sample: why it has its place, its segments, its response, and all of its scores.
function sampleView(index) {
  const { points, details } = DATA.explorer;
  const id = points.id[index];
  const detail = details[id];
  return [
    ...headOf(index, id, detail),
    whyOf(index, detail),
    ...(detail ? [stripOf(detail), mostTelling(detail)] : [notEmbedded(id)]),
    ...(detail
      ? [
          element("h4", {}, "Instruction"),
          element("p", { class: "text", dir: "auto", id: "instruction" }, detail.instruction || "(empty)"),
        ]
      : []),
    ...(detail ? responseOf(detail) : []),
    ...(detail ? contextOf(detail) : []),
    element("h4", {}, "Ranks in all experiments"),
    ranksOf(index),
    ...(detail ? [element("h4", {}, "About this sample"), factsOf(index, detail)] : []),
  ];
}

function headOf(index, id, detail) {
  const { points } = DATA.explorer;
  const experiment = chosenExperiment();
  const state = experiment ? DATA.explorer.states[experiment.state[index]] : null;
  const rank = experiment?.rank[index];
  const badges = [
    state &&
      element(
        "li",
        {
          class: state === "selected" ? "selected" : state === "near duplicate" || state === "held out" ? "flag" : null,
        },
        rank ? `${state}, rank ${whole.format(rank)} of ${whole.format(experiment.ranked)}` : state,
      ),
    element("li", {}, nameOf(points.dataset, index)),
    points.status &&
      nameOf(points.status, index) !== "ok" &&
      element("li", { class: "flag" }, `status ${nameOf(points.status, index)}`),
    points.tokens && element("li", {}, `${shown(points.tokens[index])} tokens`),
    points.truncated_tokens?.[index]
      ? element("li", { class: "flag" }, `${shown(points.truncated_tokens[index])} tokens cut off`)
      : null,
    detail?.duplicates.length ? element("li", { class: "flag" }, `${detail.duplicates.length} near duplicates`) : null,
  ].filter(Boolean);
  const step = (label, by) => {
    const other = neighbour(index, by);
    return element(
      "button",
      { type: "button", disabled: other === null, onclick: () => showSample(other, true) },
      label,
    );
  };
  return [
    element(
      "div",
      { class: "head" },
      element("h3", { id: "sample-id" }, id),
      element("div", {}, step("◀ better", -1), " ", step("worse ▶", 1)),
    ),
    element("ul", { class: "badges" }, badges),
  ];
}

/** Return how the score of the chosen experiment adds up. */
function whyOf(index, detail) {
  const experiment = chosenExperiment();
  const box = element("div", { class: "why", id: "why" });
  if (!experiment) {
    box.append(element("p", {}, "No experiment has a ranking yet, so this sample has no score."));
    return box;
  }
  if (experiment.rank[index] === null) {
    box.append(element("p", {}, `${experiment.name} does not rank this sample.`));
    return box;
  }
  const parts = experiment.parts.map((part) => ({
    ...part,
    value: part.value[index],
    normed: part.normed[index],
    below: part.below[index],
  }));
  const strongest = [...parts].sort((a, b) => (b.below ?? 0) * b.weight - (a.below ?? 0) * a.weight)[0];
  const better = (share) => {
    const below = Math.floor(100 * Math.max(0, share - 1 / experiment.ranked));
    return share >= 1 ? "the highest" : `above ${below} %`;
  };
  box.append(
    element(
      "p",
      {},
      element(
        "b",
        {},
        `Rank ${whole.format(experiment.rank[index])} of ${whole.format(experiment.ranked)} by ${experiment.name}. `,
      ),
      experiment.score[index] === null
        ? "It has no score, because scoring.screen leaves it out of the segment pass. It is ranked by HMP, after all samples with a score."
        : parts.length > 1
          ? `It owes most to its ${strongest.name}, which is ${better(strongest.below)} of all samples.`
          : `Method: ${experiment.about}.`,
    ),
  );
  if (!parts.length) {
    box.append(element("p", {}, "The parts of the score are not stored; the results are of an older version."));
    return box;
  }
  const rows = parts.map((part) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, part.name),
      element("td", { class: "number" }, shown(part.value)),
      element(
        "td",
        {},
        element("span", { class: "meter" }, element("i", { style: `width:${100 * (part.below ?? 0)}%` })),
        " ",
        part.below === null ? "–" : better(part.below),
      ),
      element("td", { class: "number" }, `${shown(part.weight, 3)} × ${shown(part.normed)}`),
    ),
  );
  box.append(
    element(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table: parts of the score" },
      element(
        "table",
        {},
        element(
          "thead",
          {},
          element(
            "tr",
            {},
            ...["part", "measured", "compared with the pool", "weight × normed"].map((title, column) =>
              element("th", { scope: "col", class: column % 2 ? "number" : null }, title),
            ),
          ),
        ),
        element("tbody", {}, rows),
        element(
          "tfoot",
          {},
          element(
            "tr",
            {},
            element("th", { scope: "row", colspan: 3 }, element("b", {}, "score, the sum")),
            element("td", { class: "number" }, element("b", { id: "score" }, shown(experiment.score[index], 6))),
          ),
        ),
      ),
    ),
  );
  return box;
}

function notEmbedded(id) {
  return element(
    "p",
    { class: "missing" },
    "The text of this sample is not part of the page, which holds the best, the worst, those around the cut and some drawn ones. To add it: ",
    element("code", {}, `gateau report --results ${DATA.results} --sample '${id}'`),
  );
}

function ranksOf(index) {
  const rows = DATA.explorer.experiments.map((experiment) => {
    const rank = experiment.rank[index];
    const share = rank === null ? 0 : 1 - (rank - 1) / Math.max(experiment.ranked - 1, 1);
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, experiment.name),
      element("td", { class: "number" }, rank === null ? "–" : whole.format(rank)),
      element("td", {}, element("span", { class: "meter" }, element("i", { style: `width:${100 * share}%` }))),
      element("td", { class: "number" }, shown(experiment.score[index])),
      element("td", {}, DATA.explorer.states[experiment.state[index]]),
    );
  });
  if (!rows.length) return element("p", { class: "missing" }, "No experiment has a ranking yet.");
  return element(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table: ranks" },
    element(
      "table",
      { id: "ranks" },
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          element("th", { scope: "col" }, "experiment"),
          element("th", { scope: "col", class: "number" }, "rank"),
          element("th", { scope: "col" }, "worst to best"),
          element("th", { scope: "col", class: "number" }, "score"),
          element("th", { scope: "col" }, "state"),
        ),
      ),
      element("tbody", {}, rows),
    ),
  );
}

function factsOf(index, detail) {
  const { points } = DATA.explorer;
  const experiment = chosenExperiment();
  const facts = [["row", element("a", { href: detail.href }, `${detail.file}, line ${detail.line}`)]];
  for (const [name, title] of [
    ["n_context", "context tokens"],
    ["n_response", "response tokens"],
    ["nll_short", "NLL under θ_S"],
    ["nll_long", "NLL under θ_L"],
    ["cas", "CAS"],
  ]) {
    if (points[name]) facts.push([title, shown(points[name][index])]);
  }
  if (experiment?.cluster) facts.push(["cluster", shown(experiment.cluster[index])]);
  if (detail.duplicates.length) {
    facts.push([
      "near duplicates",
      element(
        "span",
        {},
        detail.duplicates.flatMap((other) => {
          const found = points.id.indexOf(other);
          return [
            found < 0 ? other : element("button", { type: "button", onclick: () => showSample(found, true) }, other),
            " ",
          ];
        }),
      ),
    ]);
  }
  return element(
    "dl",
    { class: "facts" },
    facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
}
