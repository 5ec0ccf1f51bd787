// The explorer: the plot of all points, the list of those that were chosen, and the sample that is shown.
const explorer = DATA.explorer;
const redrawSample = [];
const chosen = { sample: null, brush: null, listed: 50, view: null };
const field = (id) => document.getElementById(id);

function nameOf(column, index) {
  return column ? column.names[column.codes[index]] : "";
}

function chosenExperiment() {
  return explorer?.experiments[Number(field("experiment").value)] ?? null;
}

/** Return the columns that can be plotted, by name: a title and the values. */
function columns() {
  const found = {};
  const experiment = chosenExperiment();
  const add = (key, title, values) => {
    if (values?.some((value) => value !== null)) found[key] = { title, values };
  };
  if (experiment) {
    add("hmp", "HMP as normed for the ranking", experiment.hmp);
    add("cas", "CAS", experiment.cas);
    add("score", `score of ${experiment.name}`, experiment.score);
    add("rank", `rank in ${experiment.name}`, experiment.rank);
    experiment.parts.forEach((part, number) => add(`part${number}`, part.name, part.value));
  }
  const { points } = explorer;
  if (!experiment) add("cas", "CAS", points.cas);
  if (points.nll_short)
    add(
      "gain",
      "HMP in nats (NLL under θ_S minus NLL under θ_L)",
      points.nll_short.map((value, index) =>
        value === null || points.nll_long[index] === null ? null : value - points.nll_long[index],
      ),
    );
  add("nll_short", "NLL under θ_S", points.nll_short);
  add("nll_long", "NLL under θ_L", points.nll_long);
  add("tokens", "tokens", points.tokens);
  add("n_context", "context tokens", points.n_context);
  add("n_response", "response tokens", points.n_response);
  return found;
}

function colourOf(index) {
  const by = field("colour").value;
  if (by === "dataset" || by === "status") return nameOf(explorer.points[by], index);
  if (by === "selections") {
    const names = explorer.experiments
      .filter((one) => explorer.states[one.state[index]] === "selected")
      .map((one) => one.name);
    return names.length > 2 ? `${names.length} experiments` : names.join(" and ") || "none";
  }
  const experiment = chosenExperiment();
  return experiment ? explorer.states[experiment.state[index]] : "";
}

function fill(select, options, wanted) {
  const before = wanted ?? select.value;
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  if (options.some(([value]) => value === before)) select.value = before;
}

function fillAxes(first) {
  const options = Object.entries(columns()).map(([key, column]) => [key, column.title]);
  fill(field("x"), options, first ? (options.some(([key]) => key === "gain") ? "gain" : "n_context") : undefined);
  fill(field("y"), options, first ? (options.some(([key]) => key === "cas") ? "cas" : "n_response") : undefined);
}

function plotted() {
  const all = columns();
  const [x, y] = [all[field("x").value], all[field("y").value]];
  if (!x || !y) return null;
  const rows = [];
  explorer.points.id.forEach((id, index) => {
    if (x.values[index] === null || y.values[index] === null) return;
    rows.push({
      index,
      id,
      x: x.values[index],
      y: y.values[index],
      colour: colourOf(index),
      full: id in explorer.details,
    });
  });
  return { rows, x: x.title, y: y.title };
}

async function drawScatter() {
  const plot = plotted();
  const holder = field("scatter");
  if (!plot) {
    holder.replaceChildren(
      element("p", { class: "missing" }, "There are no numbers to plot yet: no sample has token lengths or scores."),
    );
    return;
  }
  const narrow = window.matchMedia("(max-width: 60rem)").matches;
  const names = [...new Set(plot.rows.map((row) => row.colour))].sort();
  const states = field("colour").value === "state";
  const scale = states
    ? { domain: explorer.states, range: ["#009E73", css("--soft"), "#D55E00", "#CC79A7", "#E69F00", "#56B4E9"] }
    : { domain: names };
  const encoding = {
    x: { field: "x", type: "quantitative", title: plot.x, scale: { zero: false, padding: 8 } },
    y: { field: "y", type: "quantitative", title: plot.y, scale: { zero: false, padding: 8 } },
  };
  const spec = {
    description: `Scatter plot of ${plot.y} against ${plot.x}, one point per sample. The list below the plot holds the same samples.`,
    width: "container",
    height: narrow ? 300 : 380,
    layer: [
      {
        data: { values: plot.rows },
        params: narrow ? [] : [{ name: "brush", select: { type: "interval", clear: "dblclick" } }],
        mark: { type: "point", filled: true },
        encoding: {
          ...encoding,
          color: {
            field: "colour",
            type: "nominal",
            scale,
            legend: { orient: "bottom", title: null, columns: narrow ? 2 : 3, labelLimit: 180 },
          },
          size: { condition: { test: "datum.full", value: 46 }, value: 16 },
          opacity: { condition: { test: "datum.full", value: 0.85 }, value: 0.35 },
          tooltip: [
            { field: "id" },
            { field: "colour", title: "group" },
            { field: "x", title: plot.x, format: ".4~g" },
            { field: "y", title: plot.y, format: ".4~g" },
          ],
        },
      },
      {
        data: { name: "shown", values: [] },
        mark: { type: "point", size: 220, strokeWidth: 3, color: css("--ink"), filled: false },
        encoding,
      },
    ],
  };
  chosen.view = await draw(holder, spec, { renderer: "canvas" });
  chosen.brush = null;
  chosen.view.addEventListener("click", (event) => {
    const near = nearest(event, plot.rows);
    if (near !== null) showSample(near, false);
  });
  if (!narrow)
    chosen.view.addSignalListener("brush", (name, value) => {
      chosen.brush = value?.x ? value : null;
      drawList();
    });
  markShown();
  drawList();
}

/** Return where a row is drawn, in pixels of the window. */
function position(row) {
  const [left, top] = chosen.view.origin();
  const box = field("scatter").querySelector("canvas").getBoundingClientRect();
  return [box.left + left + chosen.view.scale("x")(row.x), box.top + top + chosen.view.scale("y")(row.y)];
}

/** Return the index of the nearest point to a click, if one is near enough. */
function nearest(event, rows) {
  let [best, least] = [null, 18];
  for (const row of rows) {
    const [x, y] = position(row);
    const distance = Math.hypot(x - event.clientX, y - event.clientY) - (row.full ? 0.5 : 0);
    if (distance < least) [best, least] = [row.index, distance];
  }
  return best;
}

function markShown() {
  const row = plotted()?.rows.find((one) => one.index === chosen.sample);
  chosen.view?.data("shown", row ? [row] : []).runAsync();
}

/** Return the indices of the points that the search and the brush leave, the best ranked first. */
function found() {
  const words = field("search").value.trim().toLowerCase();
  const plot = chosen.brush ? plotted() : null;
  const inBrush =
    plot &&
    new Set(
      plot.rows
        .filter((row) =>
          ["x", "y"].every(
            (axis) => row[axis] >= Math.min(...chosen.brush[axis]) && row[axis] <= Math.max(...chosen.brush[axis]),
          ),
        )
        .map((row) => row.index),
    );
  const ranks = chosenExperiment()?.rank;
  const matches = (id, index) => {
    if (inBrush && !inBrush.has(index)) return false;
    if (!words) return true;
    if (id.toLowerCase().includes(words) || nameOf(explorer.points.dataset, index).toLowerCase().includes(words))
      return true;
    const detail = explorer.details[id];
    return Boolean(detail) && textOf(detail).includes(words);
  };
  return explorer.points.id
    .map((id, index) => index)
    .filter((index) => matches(explorer.points.id[index], index))
    .sort((a, b) => (ranks?.[a] ?? Infinity) - (ranks?.[b] ?? Infinity) || a - b);
}

const texts = new Map();
function textOf(detail) {
  if (!texts.has(detail))
    texts.set(
      detail,
      [
        detail.instruction,
        ...(detail.segments ?? [detail.context ?? ""]),
        ...(detail.tokens ? [detail.tokens.join("")] : [detail.response ?? ""]),
      ]
        .filter(Boolean)
        .join(" ")
        .toLowerCase(),
    );
  return texts.get(detail);
}

function drawList() {
  const indices = found();
  const experiment = chosenExperiment();
  field("found").textContent =
    `${whole.format(indices.length)} of ${whole.format(explorer.points.id.length)} points${chosen.brush ? ", chosen in the plot" : ""}${field("search").value.trim() ? ", found by the search" : ""}.`;
  const rows = indices
    .slice(0, chosen.listed)
    .map((index) =>
      element(
        "tr",
        { "aria-current": index === chosen.sample ? "true" : null },
        element("td", { class: "number" }, experiment?.rank[index] ? whole.format(experiment.rank[index]) : "–"),
        element(
          "td",
          {},
          element(
            "button",
            { type: "button", "data-index": index, onclick: () => showSample(index, true) },
            explorer.points.id[index],
          ),
        ),
        element("td", {}, nameOf(explorer.points.dataset, index)),
        element("td", { class: "number" }, experiment ? shown(experiment.score[index]) : "–"),
      ),
    );
  const more =
    indices.length > chosen.listed
      ? element(
          "button",
          {
            type: "button",
            onclick: () => {
              chosen.listed += 200;
              drawList();
            },
          },
          "Show more",
        )
      : null;
  field("list").replaceChildren(
    element(
      "table",
      {},
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          element("th", { scope: "col", class: "number" }, "rank"),
          element("th", { scope: "col" }, "sample"),
          element("th", { scope: "col" }, "data set"),
          element("th", { scope: "col", class: "number" }, "score"),
        ),
      ),
      element("tbody", {}, rows),
    ),
    ...(more ? [more] : []),
  );
}

/** Return the point whose rank in the chosen experiment is the next better (-1) or worse (1) one with a text. */
function neighbour(index, by) {
  const ranks = chosenExperiment()?.rank;
  if (!ranks || ranks[index] === null) return null;
  let best = null;
  ranks.forEach((rank, other) => {
    if (rank === null || !(explorer.points.id[other] in explorer.details) || (rank - ranks[index]) * by <= 0) return;
    if (best === null || (rank - ranks[best]) * by < 0) best = other;
  });
  return best;
}

async function showSample(index, move) {
  chosen.sample = index;
  redrawSample.length = 0;
  const article = field("sample");
  article.replaceChildren(...sampleView(index).filter(Boolean));
  await drawStrip(explorer.details[explorer.points.id[index]]);
  markShown();
  drawList();
  const narrow = window.matchMedia("(max-width: 60rem)").matches;
  if (move === null) return; // the page has just been opened
  if (move || narrow) article.focus({ preventScroll: !narrow });
}

async function startExplorer() {
  await drawCharts();
  if (!explorer) return;
  const [points, full] = [explorer.points.id.length, Object.keys(explorer.details).length];
  const drawn = points < explorer.n ? `, ${whole.format(points)} of them drawn as points` : "";
  field("explorer-counts").textContent =
    `${whole.format(explorer.n)} samples${drawn}. ${full === points ? "All" : `The ${whole.format(full)} large points`} can be read in full.`;
  fill(
    field("experiment"),
    explorer.experiments.map((one, number) => [String(number), `${one.name} (${one.method})`]),
  );
  const recommended = explorer.experiments.findIndex((one) => one.method === "gateau_robust");
  if (recommended > 0) field("experiment").value = String(recommended);
  if (!explorer.experiments.length) fill(field("experiment"), [["", "no ranking yet"]]);
  const colours = [
    ["dataset", "data set"],
    ["status", "status"],
    ...(explorer.experiments.length ? [["state", "state in the experiment"]] : []),
    ...(explorer.experiments.length > 1 ? [["selections", "experiments that select it"]] : []),
  ];
  fill(
    field("colour"),
    colours.filter(([key]) => key === "state" || key === "selections" || explorer.points[key]),
    explorer.points.dataset?.names.length > 1 ? "dataset" : "state",
  );
  fillAxes(true);
  field("controls").addEventListener("submit", (event) => event.preventDefault());
  field("experiment").addEventListener("change", async () => {
    fillAxes();
    await drawScatter();
    if (chosen.sample !== null) await showSample(chosen.sample, false);
  });
  for (const name of ["colour", "x", "y"]) field(name).addEventListener("change", drawScatter);
  field("search").addEventListener("input", () => {
    chosen.listed = 50;
    drawList();
  });
  await drawScatter();
  const first = found()[0];
  if (first !== undefined) await showSample(first, null);
  redraws.push(drawScatter, async () => {
    redrawSample.forEach((redraw) => redraw());
    if (chosen.sample !== null) await drawStrip(explorer.details[explorer.points.id[chosen.sample]]);
  });
}

document.documentElement.dataset.theme = window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
field("theme").setAttribute("aria-pressed", String(document.documentElement.dataset.theme === "dark"));
startExplorer().then(() => {
  document.documentElement.dataset.ready = "true";
});
