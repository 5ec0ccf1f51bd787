"use strict";
// Data, small helpers, the theme, and the charts that need nothing but their specification.
const DATA = JSON.parse(document.getElementById("data").textContent);
const whole = new Intl.NumberFormat("en");

/** Return an element with attributes and children; texts become text nodes, so they are never read as HTML. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false)
      made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** Return a number for people: four significant digits, or a dash. */
function shown(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return whole.format(value);
  return Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3
    ? value.toExponential(digits - 2)
    : String(Number(value.toPrecision(digits)));
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Return Vega's configuration in the colours of the theme. */
function vegaConfig() {
  const [ink, soft, grid] = [css("--ink"), css("--soft"), css("--grid")];
  const text = { labelColor: ink, titleColor: soft, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" };
  return {
    background: "transparent",
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: null },
    axis: { ...text, gridColor: grid, domainColor: grid, tickColor: grid },
    legend: text,
    header: text,
    text: { color: ink },
    mark: { color: `rgb(${css("--attention")})` },
    rule: { color: `rgb(${css("--attention")})` },
    range: { category: css("--colours").split(" ") },
  };
}

/** Draw a chart into an element; return its view. */
async function draw(place, spec, options = {}) {
  const result = await vegaEmbed(
    place,
    { ...spec, autosize: { type: "fit-x", contains: "padding" } },
    {
      actions: false,
      logLevel: 1,
      renderer: "svg",
      config: vegaConfig(),
      ...options,
    },
  );
  const picture = place.querySelector("svg, canvas");
  if (picture) {
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", spec.description);
    picture.querySelectorAll("[role], [aria-label], [aria-roledescription]").forEach((part) => {
      for (const name of ["role", "aria-label", "aria-roledescription"]) part.removeAttribute(name);
    });
  }
  return result.view;
}

async function drawCharts() {
  for (const place of document.querySelectorAll("[data-chart]")) {
    const spec = DATA.charts[place.dataset.chart];
    if (spec) await draw(place, spec);
  }
}

const redraws = [drawCharts]; // everything that follows the theme

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const button = document.getElementById("theme");
  button.setAttribute("aria-pressed", String(theme === "dark"));
  return Promise.all(redraws.map((redraw) => redraw()));
}

document.getElementById("theme").addEventListener("click", () => {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
});
