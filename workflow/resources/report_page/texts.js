// The texts of a sample: the context by segments with its three tracks, and the response by tokens.
const TRACKS = {
  attention: { name: "attention", about: "mean attention weight per token of the segment", variable: "--attention" },
  importance: {
    name: "importance",
    about: "importance by the perplexity of the response given the segment alone",
    variable: "--importance",
  },
  far: { name: "far evidence", about: "what the segment adds to the far evidence", variable: "--far" },
};
const shading = { segments: "far", tokens: "difference" };

function rgba(variable, alpha) {
  return `rgba(${css(variable)}, ${Math.max(0, Math.min(1, alpha)).toFixed(3)})`;
}

function largest(values) {
  return values.reduce((most, value) => Math.max(most, value ?? 0), 0) || 1;
}

/** Return where a segment is, in words. */
function place(number, count) {
  const after = count - 1 - number;
  return `Segment ${number + 1} of ${count} (${after === 0 ? "the nearest to the response" : `${after} before the last`})`;
}

/** Return a strip of all segments, one row per track, as a chart. */
function stripOf(detail) {
  if (!detail.nll) return null;
  const holder = element(
    "div",
    {},
    element("h4", {}, "Where the context matters"),
    element("div", { class: "plot", id: "strip" }),
    element(
      "p",
      { class: "hint" },
      `Left is the start of the context, right is next to the response. The strongest colour of each row marks its largest value${detail.left_out ? `; ${shown(detail.left_out)} tokens before segment 1 were cut off and have no scores` : ""}.`,
    ),
  );
  return holder;
}

async function drawStrip(detail) {
  const holder = document.getElementById("strip");
  if (!holder || !detail?.nll) return;
  const rows = Object.entries(TRACKS).flatMap(([key, track]) => {
    const most = largest(detail[key]);
    return detail[key].map((value, number) => ({
      number: number + 1,
      track: track.name,
      value,
      share: (value ?? 0) / most,
      nll: detail.nll[number],
    }));
  });
  const names = Object.values(TRACKS).map((track) => track.name);
  const spec = {
    description:
      "Heat strip of the segments: attention, importance and far evidence. The numbers are in the table below the context.",
    width: "container",
    height: 66,
    data: { values: rows },
    mark: { type: "rect", cursor: "pointer" },
    encoding: {
      x: { field: "number", type: "ordinal", title: "segment", axis: { labelOverlap: true, labelAngle: 0 } },
      y: { field: "track", type: "nominal", sort: names, title: null },
      color: {
        field: "track",
        type: "nominal",
        legend: null,
        scale: { domain: names, range: Object.values(TRACKS).map((track) => `rgb(${css(track.variable)})`) },
      },
      opacity: { field: "share", type: "quantitative", legend: null, scale: { domain: [0, 1], range: [0.06, 1] } },
      tooltip: [
        { field: "number", title: "segment" },
        { field: "track" },
        { field: "value", format: ".4~g" },
        { field: "nll", title: "NLL of the response given it alone", format: ".3f" },
      ],
    },
  };
  const view = await draw(holder, spec);
  view.addEventListener("click", (event, item) => item?.datum?.number && markSegment(item.datum.number - 1));
}

function markSegment(number) {
  document.querySelectorAll(".segment.marked").forEach((one) => one.classList.remove("marked"));
  const segment = document.querySelector(`.segment[data-number="${number}"]`);
  if (!segment) return;
  segment.classList.add("marked");
  segment.parentElement.scrollTop = segment.offsetTop - segment.parentElement.offsetTop - 20;
}

/** Return the segment with the largest far evidence, or the most attended one, in words and as a quotation. */
function mostTelling(detail) {
  if (!detail.nll) return null;
  const key = detail.far.some((value) => value > 0) ? "far" : "attention";
  const number = detail[key].indexOf(largest(detail[key]));
  const text = detail.segments[number];
  const gain = detail.median - detail.nll[number];
  const words =
    key === "far"
      ? `${place(number, detail.nll.length)} adds most to the far evidence: given it alone, each response token costs ${shown(gain, 3)} nats less than given the median segment.`
      : `No segment helps the response more than the median one does. ${place(number, detail.nll.length)} gets most attention.`;
  return element(
    "div",
    {},
    element("p", { class: "text" }, words),
    text ? element("blockquote", { class: `quote ${key}`, dir: "auto" }, text.trim()) : null,
  );
}

function choice(name, legend, options, apply) {
  return element(
    "fieldset",
    { class: "choice" },
    element("legend", {}, legend),
    ...Object.entries(options).map(([value, text]) =>
      element(
        "label",
        {},
        element("input", {
          type: "radio",
          name,
          value,
          checked: shading[name] === value,
          onchange: () => {
            shading[name] = value;
            apply();
          },
        }),
        text,
      ),
    ),
  );
}

function responseOf(detail) {
  const title = element("h4", {}, "Response");
  if (!detail.tokens) {
    return [
      title,
      element("p", { class: "text tokens", dir: "auto", id: "response", tabindex: 0 }, detail.response || "(empty)"),
      detail.long
        ? element("p", { class: "hint" }, "The tokens cannot be shown, because the tokenizer is not at hand.")
        : null,
    ];
  }
  const line = element("p", { class: "line", "aria-live": "off" }, " ");
  const spans = detail.tokens.map((token, number) => {
    const [short, long] = [detail.short[number], detail.long[number]];
    const say = () => {
      line.textContent = `“${token}”: NLL ${shown(short, 3)} under θ_S, ${shown(long, 3)} under θ_L, difference ${shown(short - long, 3)}`;
    };
    return element("span", { "data-short": short, "data-long": long, onmouseenter: say }, token);
  });
  const box = element(
    "div",
    {
      class: "tokens",
      dir: "auto",
      id: "response",
      tabindex: 0,
      role: "region",
      "aria-label": "Response, token by token",
    },
    spans,
  );
  const apply = () =>
    spans.forEach((span, number) => {
      const [short, long] = [detail.short[number], detail.long[number]];
      const limit = Number(css("--shade"));
      if (shading.tokens === "difference") {
        const gain = short - long;
        span.style.background = rgba(gain > 0 ? "--far" : "--worse", limit * Math.min(1, Math.abs(gain) / 3));
      } else {
        span.style.background = rgba("--nll", limit * Math.min(1, (shading.tokens === "short" ? short : long) / 6));
      }
    });
  apply();
  redrawSample.push(apply);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  return [
    title,
    choice("tokens", "Shade by NLL:", { difference: "θ_S minus θ_L", short: "under θ_S", long: "under θ_L" }, apply),
    box,
    line,
    element(
      "p",
      { class: "hint" },
      element("span", { class: "swatch", style: `background:rgb(${css("--far")})` }),
      "θ_L predicts the token better than θ_S does; ",
      element("span", { class: "swatch", style: `background:rgb(${css("--worse")})` }),
      `worse. Mean NLL: ${shown(mean(detail.short), 3)} under θ_S, ${shown(mean(detail.long), 3)} under θ_L${detail.tokens.length < detail.n_tokens ? ` (of the first ${detail.tokens.length} of ${detail.n_tokens} tokens)` : ""}.`,
    ),
    numbersOf(
      "Numbers of the tokens",
      ["token", "under θ_S", "under θ_L", "difference"],
      detail.tokens.map((token, number) => [
        token,
        detail.short[number],
        detail.long[number],
        detail.short[number] - detail.long[number],
      ]),
    ),
  ];
}

function contextOf(detail) {
  const title = element("h4", {}, "Context");
  if (!detail.nll)
    return [
      title,
      element("p", { class: "text tokens", dir: "auto", id: "context", tabindex: 0 }, detail.context || "(empty)"),
    ];
  const most = Object.fromEntries(Object.keys(TRACKS).map((key) => [key, largest(detail[key])]));
  const line = element("p", { class: "line", "aria-live": "off" }, " ");
  const bodies = [];
  const segments = detail.nll
    .map((nll, number) => {
      const text = detail.segments[number];
      if (text === null) return leftOut(detail.segments, number);
      const bars = Object.entries(TRACKS).map(([key, track]) =>
        element("i", {
          title: track.name,
          style: `width:${(100 * (detail[key][number] ?? 0)) / most[key]}%;background:rgb(var(${track.variable}))`,
        }),
      );
      const body = element("div", { class: "body", dir: "auto" }, text);
      bodies.push([number, body]);
      const say = () => {
        line.textContent = `${place(number, detail.nll.length)}: attention ${shown(detail.attention[number])}, importance ${shown(detail.importance[number])}, far evidence ${shown(detail.far[number])}, NLL given it alone ${shown(nll)} (median ${shown(detail.median)})`;
      };
      return element(
        "div",
        {
          class: "segment",
          role: "listitem",
          "data-number": number,
          "data-nll": nll,
          "data-attention": detail.attention[number],
          "data-importance": detail.importance[number],
          onmouseenter: say,
        },
        element("div", { class: "tracks" }, `${number + 1}`, bars),
        body,
      );
    })
    .filter(Boolean);
  const apply = () =>
    bodies.forEach(([number, body]) => {
      const key = shading.segments;
      body.style.background =
        key === "none"
          ? ""
          : rgba(TRACKS[key].variable, (Number(css("--shade")) * (detail[key][number] ?? 0)) / most[key]);
    });
  apply();
  redrawSample.push(apply);
  return [
    title,
    choice(
      "segments",
      "Shade by:",
      { attention: "attention", importance: "importance", far: "far evidence", none: "nothing" },
      apply,
    ),
    element(
      "p",
      { class: "hint" },
      ...Object.values(TRACKS).flatMap((track) => [
        element("span", { class: "swatch", style: `background:rgb(var(${track.variable}))` }),
        `${track.name}: ${track.about}. `,
      ]),
      detail.exact ? null : "The segments are cut at even distances, because the tokenizer is not at hand.",
    ),
    line,
    element(
      "div",
      { class: "segments", tabindex: 0, role: "region", "aria-label": "Context, segment by segment" },
      element("div", { role: "list" }, segments),
    ),
    numbersOf(
      "Numbers of the segments",
      ["segment", "attention", "importance", "far evidence", "NLL given it alone"],
      detail.nll.map((nll, number) => [
        number + 1,
        detail.attention[number],
        detail.importance[number],
        detail.far[number],
        nll,
      ]),
    ),
  ];
}

/** Return one row for neighbouring segments without a text, at the first of them. */
function leftOut(segments, number) {
  if (number && segments[number - 1] === null) return null;
  let last = number;
  while (segments[last + 1] === null) last += 1;
  const count = last - number + 1;
  return element(
    "div",
    { class: "segment", role: "listitem" },
    element("div", { class: "tracks" }, count > 1 ? `${number + 1}–${last + 1}` : `${number + 1}`),
    element(
      "div",
      { class: "body left" },
      `${whole.format(count)} ${count > 1 ? "segments whose texts are" : "segment whose text is"} left out`,
    ),
  );
}

function numbersOf(title, titles, rows) {
  const body = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title });
  const fill = () => {
    if (body.childElementCount) return;
    body.append(
      element(
        "table",
        {},
        element(
          "thead",
          {},
          element(
            "tr",
            {},
            titles.map((text, column) => element("th", { scope: "col", class: column ? "number" : null }, text)),
          ),
        ),
        element(
          "tbody",
          {},
          rows.map((row) =>
            element(
              "tr",
              {},
              row.map((cell, column) =>
                column
                  ? element("td", { class: "number" }, shown(cell))
                  : element("th", { scope: "row" }, String(cell)),
              ),
            ),
          ),
        ),
      ),
    );
  };
  return element("details", { ontoggle: fill }, element("summary", {}, title), body);
}
