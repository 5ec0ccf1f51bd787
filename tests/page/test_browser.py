"""The page in a browser, as a person uses it: points, search, themes, a phone, a keyboard, a screen reader."""

import pandas as pd
import pytest

from page_results import NASTY

pytestmark = pytest.mark.browser


def shown_id(page):
    return page.inner_text("#sample-id")


def choose(page, row_id):
    """Show a sample as its button in the list does."""
    page.fill("#search", row_id)
    page.click(f"#list button:text-is('{row_id}')")
    page.wait_for_function("id => document.getElementById('sample-id').textContent === id", arg=row_id)


def test_a_click_on_a_point_shows_its_sample_with_the_scores_of_the_ranking(opened, results):
    page, (folder, _) = opened(), results
    name = page.evaluate("chosenExperiment().name")
    ranking = pd.read_parquet(folder / "selection" / name / "ranking.parquet").set_index("id")
    # a point that stands alone, so that the click can mean no other one
    wanted, x, y = page.evaluate(
        """() => {
          const rows = plotted().rows.filter((row) => row.full).map((row) => ({ ...row, at: position(row) }));
          const between = (one, other) => Math.hypot(one.at[0] - other.at[0], one.at[1] - other.at[1]);
          const alone = (row) => Math.min(...rows.filter((one) => one !== row).map((one) => between(one, row)));
          const best = rows.filter((row) => row.index !== chosen.sample).sort((a, b) => alone(b) - alone(a))[0];
          field("scatter").scrollIntoView({ block: "center", behavior: "instant" });
          return [best.id, ...position(best)];
        }"""
    )
    page.mouse.click(x, y)
    page.wait_for_function("id => document.getElementById('sample-id').textContent === id", arg=wanted)
    assert float(page.inner_text("#score").replace(",", "")) == pytest.approx(ranking.loc[wanted, "score"], rel=1e-4)
    assert f"Rank {ranking.loc[wanted, 'rank']} of {len(ranking)}" in page.inner_text("#why")
    terms = page.evaluate("chosenExperiment().parts.map((part) => part.weight * part.normed[chosen.sample])")
    assert sum(terms) == pytest.approx(ranking.loc[wanted, "score"], rel=1e-4)


def test_the_shading_is_that_of_the_scores(opened, results):
    page, (folder, _) = opened(), results
    scores = pd.read_parquet(folder / "scores/scores.parquet").set_index("id").loc[shown_id(page)]
    for selector, names in (
        (".segment", {"nll": "segment_nll", "attention": "segment_attention"}),
        ("#response span", {"short": "token_nll_short", "long": "token_nll_long"}),
    ):
        for attribute, column in names.items():
            found = page.eval_on_selector_all(selector, f"all => all.map((one) => Number(one.dataset.{attribute}))")
            assert found == pytest.approx(list(scores[column]), rel=1e-5)
    # the largest value has the strongest shade
    page.check("input[name=segments][value=attention]")
    alpha = page.eval_on_selector_all(
        ".segment .body",
        "all => all.map((one) => Number(getComputedStyle(one).backgroundColor.split(',')[3]?.replace(')', '') ?? 1))",
    )
    attention = list(scores["segment_attention"])
    assert alpha.index(max(alpha)) == attention.index(max(attention))


def test_the_search_finds_ids_and_texts_and_counts_them(opened):
    page = opened()
    row_id = page.evaluate("Object.keys(explorer.details)[3]")
    page.fill("#search", row_id)
    assert page.locator("#list tbody tr").count() == 1
    choose(page, row_id)
    page.fill("#search", "no such text anywhere")
    assert page.inner_text("#found").startswith("0 of ")


def test_the_brush_limits_the_list(opened):
    page = opened()
    page.evaluate("field('scatter').scrollIntoView({ block: 'center', behavior: 'instant' })")
    box = page.locator("#scatter canvas").bounding_box()
    page.mouse.move(box["x"] + 70, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    page.wait_for_function("chosen.brush !== null")
    inside = page.evaluate("found().length")
    assert inside < page.evaluate("explorer.points.id.length")
    assert f"{inside:,} of" in page.inner_text("#found")


def test_texts_are_shown_and_never_run(opened, request):
    if request.node.callspec.params["results"] == "real":
        pytest.skip("the rows of a real run hold plain words")
    page = opened()
    for number, nasty in enumerate(NASTY):
        row_id = page.evaluate(
            "n => Object.keys(explorer.details).find((id) => Number(id.slice(1)) % 40 === n)", arg=number
        )
        choose(page, row_id)
        assert nasty in page.evaluate(
            "[...document.querySelectorAll('.segment .body')].map((one) => one.textContent).join('')"
        )
        assert page.inner_text("#instruction").startswith("Question ")
    assert page.evaluate("window.attacked") is None


def test_dark_mode_follows_the_system_and_the_button(opened):
    page = opened(scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light == opened(scheme="light").evaluate("getComputedStyle(document.body).backgroundColor")


def test_a_phone_needs_no_sideways_scrolling(opened):
    page = opened(390, 844)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_keyboard_reaches_a_sample(opened):
    page = opened()
    first = shown_id(page)
    page.focus("#search")
    for _ in range(4):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "sample"
    assert shown_id(page) != first


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(opened, axe, scheme):
    page = opened(scheme=scheme)
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    serious = [
        (one["id"], [node["target"] for node in one["nodes"]][:3], one["nodes"][0]["failureSummary"][:300])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_all_is_visible_in_print(opened):
    page = opened()
    page.emulate_media(media="print")
    assert not page.is_visible("header.top")
    assert page.eval_on_selector(".segments", "one => one.scrollHeight <= one.clientHeight + 1")
