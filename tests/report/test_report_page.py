"""The report in a real browser: values, zoom, smoothing, keyboard, colours, paper; and data never runs."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest

LOSS = "loss"


def losses(files):
    lines = (files["one"].parent / "runs" / "first" / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines) if "loss" in line}


def shown_step(text: str) -> int:
    return int(re.match(r"step ([\d,]+)", text)[1].replace(",", ""))


def shown_loss(text: str) -> float:
    return float(re.search(r"training ([\d.]+)", text)[1])


def set_slider(page, value):
    page.locator("#smoothing").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", str(value)
    )


@pytest.mark.parametrize("name", ["one", "many", "both"])
def test_a_page_opens_without_errors_or_requests(show, name):
    page = show(name).page
    charts = page.locator(".chart").count()
    assert charts > 8
    assert page.locator(".plot > svg").count() == charts
    assert page.title() != "broken"
    assert "NaN" not in page.locator("main").inner_html().replace("NaN</", "")
    assert page.locator("img[src='x']").count() == 0


def test_a_chart_says_the_value_of_the_step_that_is_pointed_at(show, files):
    known, shown = losses(files), show()
    for wanted in (200, 1000, 1750):
        text = shown.hover(LOSS, wanted)
        step = shown_step(text)
        assert abs(step - wanted) <= 4
        assert shown_loss(text) == pytest.approx(known[step], rel=1e-5)


def close_to(shown, step: int) -> str:
    """Zoom in on a step, and point at it."""
    shown.drag(LOSS, (step - 10) / 2000, (step + 10) / 2000)
    low, high = (int(end.replace(",", "")) for end in re.findall(r"[\d,]+", shown.range))
    return shown.hover(LOSS, step - low, high - low)


def test_the_highest_value_is_drawn(show, files):
    highest = max(value for value in losses(files).values() if value)
    text = close_to(show(), 740)
    assert (shown_step(text), shown_loss(text)) == (740, pytest.approx(highest, rel=1e-5))
    assert "something is wrong: gradients-explode" in text


def test_the_last_point_is_drawn_whole(show):
    """A run of one step has no other."""
    box = show().page.locator("#chart-loss svg clipPath rect")
    edge = float(box.get_attribute("x")) + float(box.get_attribute("width"))
    points = (
        show()
        .page.locator("#chart-loss svg g circle")
        .evaluate_all(
            "points => points.map((point) => Number(point.getAttribute('cx')) + Number(point.getAttribute('r')))"
        )
    )
    assert edge > max(points) > edge - 4


def test_a_figure_beyond_all_measure_has_few_digits(show):
    assert show().page.evaluate("[1.5e300, 1e9, 123456789].map(figure)") == ["1.5e+300", "1e+9", "123,457,000"]


def test_a_value_that_is_missing_is_told_and_marked(show):
    shown = show()
    text = close_to(shown, 1240)
    assert "training not a number" in text
    assert "something is wrong: not-a-number" in text
    assert shown.page.locator("#chart-loss .nan").count() == 1


def test_dragging_zooms_every_chart_and_a_double_click_shows_the_whole_run(show):
    shown = show()
    before = shown.page.locator("#chart-speed .plot path.s0").first.get_attribute("d")
    shown.drag(LOSS, 0.25, 0.5)
    low, high = (int(step.replace(",", "")) for step in re.findall(r"[\d,]+", shown.range))
    assert (abs(low - 500) <= 5, abs(high - 1000) <= 5) == (True, True)
    assert shown.page.locator("#chart-speed .plot path.s0").first.get_attribute("d") != before
    assert low <= shown_step(shown.hover(LOSS, 1, 100)) <= low + 20
    shown.page.locator("#chart-loss .plot").dblclick(position={"x": 300, "y": 100})
    assert shown.range == ""
    assert shown.page.locator("#chart-speed .plot path.s0").first.get_attribute("d") == before


def test_the_keyboard_does_what_the_pointer_does(show):
    shown = show()
    plot = shown.page.locator("#chart-loss .plot")
    plot.focus()
    said = shown.page.locator("#chart-loss output")
    plot.press("End")
    assert said.inner_text().startswith("step 2,000, ")
    plot.press("ArrowLeft")
    assert said.inner_text().startswith("step 1,999, ")
    plot.press("Shift+ArrowLeft")
    assert said.inner_text().startswith("step 1,979, ")
    for _ in range(3):
        plot.press("+")
    assert shown.range == "steps 1,750 to 2,000"
    plot.press("-")
    assert shown.range == "steps 1,500 to 2,000"
    plot.press("Home")
    assert said.inner_text().startswith("step 1,500, ")
    plot.press("ArrowRight")
    assert said.inner_text().startswith("step 1,501, ")
    plot.press("0")
    assert shown.range == ""
    shown.drag(LOSS, 0.2, 0.3)
    shown.page.locator("#reset").press("Enter")
    assert shown.range == ""


def test_one_can_zoom_in_to_two_steps_and_no_further(show):
    shown = show()
    plot = shown.page.locator("#chart-loss .plot")
    plot.focus()
    plot.press("Home")
    for _ in range(11):
        plot.press("+")
    assert shown.range == "steps 0 to 2"
    for _ in range(11):
        plot.press("-")
    assert shown.range == ""


def test_smoothing_adds_a_line_and_its_value(show, files):
    shown = show()
    raw = shown.page.locator("#chart-loss .plot path.raw")
    set_slider(shown.page, 0)
    assert raw.count() == 0
    assert shown.page.locator("#smoothed").inner_text() == "off"
    assert "smoothed" not in shown.hover(LOSS, 1500)
    set_slider(shown.page, 70)
    assert raw.count() == 1
    assert "steps" in shown.page.locator("#smoothed").inner_text()
    text = shown.hover(LOSS, 1500)
    near = [value for step, value in losses(files).items() if abs(step - shown_step(text)) <= 200 and value]
    assert float(re.search(r"smoothed ([\d.]+)", text)[1]) == pytest.approx(sum(near) / len(near), abs=0.05)
    assert shown.page.locator("#chart-learning-rate .plot path.raw").count() == 0


def test_a_logarithmic_scale_changes_what_is_drawn(show):
    page = show().page
    line = page.locator("#chart-loss .plot path.s0").first
    before = line.get_attribute("d")
    page.locator("#logarithmic").check()
    assert line.get_attribute("d") != before


def test_marks_can_be_hidden(show):
    page = show().page
    assert page.locator("#chart-loss .mark.notice").count() == 2
    page.locator("#marks").uncheck()
    assert page.locator("#chart-loss .mark").count() == 0
    assert show("both").page.locator("#marks").is_hidden()


def ground(page) -> str:
    return page.evaluate("() => getComputedStyle(document.body).backgroundColor")


def test_colours_follow_the_system_and_the_choice(show):
    light, dark = show(color_scheme="light").page, show(color_scheme="dark").page
    paper, night = ground(light), ground(dark)
    assert paper != night
    light.locator("#theme").select_option("dark")
    dark.locator("#theme").select_option("light")
    assert (ground(light), ground(dark)) == (night, paper)
    light.locator("#theme").select_option("system")
    assert ground(light) == paper


def test_paper_is_light_and_has_no_controls(show):
    page = show(color_scheme="dark").page
    page.emulate_media(media="print")
    assert page.locator("#toolbar").is_hidden()
    assert page.locator("nav").is_hidden()
    assert page.locator("#chart-loss .plot > svg").is_visible()
    colour = page.evaluate("() => getComputedStyle(document.querySelector('h1')).color")
    assert max(map(int, re.findall(r"\d+", colour)[:3])) < 100, "dark letters"
    printed = page.pdf(format="A4", prefer_css_page_size=True)
    assert printed.startswith(b"%PDF")
    assert 2 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") <= 25


def test_what_is_folded_is_printed_where_it_says_so(show):
    page = show().page
    folded = page.locator("details.printed")
    assert folded.count() > 0
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details.printed:not([open])").count() == 0
    page.evaluate("() => window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details.printed[open]").count() == 0


def test_a_narrow_window_needs_no_scrolling_sideways(show):
    for name in ("one", "both"):
        page = show(name, width=360).page
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360


def test_charts_follow_the_width_of_the_window(show):
    page = show().page
    page.set_viewport_size({"width": 700, "height": 900})
    wide = page.locator("#chart-loss .plot > svg").get_attribute("viewBox")
    page.set_viewport_size({"width": 500, "height": 900})
    assert page.locator("#chart-loss .plot > svg").get_attribute("viewBox") != wide


def test_it_can_be_read_without_its_script(browser, files):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(files["one"].as_uri())
    assert page.locator("#toolbar").is_hidden()
    assert page.locator("#theme").is_hidden()
    page.locator("#chart-loss summary").click()
    assert "held-out rows" in page.locator("#chart-loss table").first.inner_text()
    context.close()


# -- for those who hear it ------------------------------------------------------------------------


def test_landmarks_headings_and_names(show):
    page = show().page
    for landmark in ("header", "nav", "main", "footer"):
        assert page.locator(f"body > {landmark}").count() == 1
    levels = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert all(later - level <= 1 for level, later in pairwise(levels))
    assert levels.count(1) == 1
    ids = page.locator("[id]").evaluate_all("all => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))
    assert page.locator("img:not([alt])").count() == 0


def test_every_chart_has_a_summary_and_a_table(show):
    page = show().page
    for chart in page.locator(".chart").all():
        assert " from " in chart.locator(".plot").get_attribute("aria-label")
        assert chart.locator("table").count() >= 2
    described = page.locator("#chart-loss .plot").get_attribute("aria-describedby")
    assert page.locator(f"#{described}").count() == 1


def test_the_first_tab_leads_past_the_head_and_focus_is_seen(show):
    page = show().page
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "content"
    page.keyboard.press("Tab")
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"


CONTRAST = """() => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
    const [r, g, b] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const groundOf = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$/.test(colour) && colour !== "transparent") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const one of document.querySelectorAll("body *")) {
    const text = [...one.childNodes].some((each) => each.nodeType === 3 && each.textContent.trim());
    if (!text || !one.checkVisibility() || one.disabled || one.closest("script, .tokens i, .tokens b")) continue;
    const style = getComputedStyle(one);
    const ink = one instanceof SVGElement ? style.fill : style.color;
    const [high, low] = [light(ink), light(groundOf(one))].sort((a, b) => b - a);
    if ((high + 0.05) / (low + 0.05) < 4.5) found.push(`${one.tagName}.${one.className} ${ink} on ${groundOf(one)}`);
  }
  return [...new Set(found)];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(show, scheme):
    page = show(color_scheme=scheme).page
    page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate(CONTRAST) == []
