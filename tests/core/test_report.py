"""The report of a run: what its curves keep, what its page shows, that data stays text, and that it harms no run."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcore import engine
from ftcore.journal.metrics import read_points
from ftcore.locks import borrowed
from ftcore.manifest import read_manifest
from ftcore.report import document, labels, samples
from ftcore.report.actions import action_names, confusion
from ftcore.report.charts import charts_of
from ftcore.report.comparison import comparison, flat
from ftcore.report.curves import ALL_POINTS, Curve, curves_of, drawn, most_points
from ftcore.report.document import as_json, write_report
from ftcore.report.markup import Html, change, duration, number, shortened, table, tag
from ftcore.report.outcome import marks_of
from ftcore.report.page import page
from ftcore.report.plots import Mark, as_script, plots
from ftcore.report.record import Record, lasting, read_record
from ftcore.report.samples import Images
from ftcore.values import Event, EventKind, Point, RunState
from synthetic_run import LEDGER, NASTY, Synthetic, grid

STEPS = 600


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return Synthetic(folder=tmp_path_factory.mktemp("report") / "synthetic", steps=STEPS).write()


@pytest.fixture(scope="module")
def record(made) -> Record:
    return read_record(made)


@pytest.fixture(scope="module")
def text(record) -> str:
    return page(record)


class Seen(HTMLParser):
    """What a browser would find: elements with their attributes, and the text of a section."""

    def __init__(self):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, str] = {}
        self.section = ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "section":
            self.section = dict(attributes)["id"]

    def handle_data(self, data):
        self.words[self.section] = self.words.get(self.section, "") + data + " "


def seen(text: str) -> Seen:
    parser = Seen()
    parser.feed(text)
    parser.close()
    return parser


def curve(*values: float) -> Curve:
    return Curve(steps=range(1, len(values) + 1), values=values)


# -- curves ---------------------------------------------------------------------------------------

NUMBERS = st.lists(st.floats(width=32) | st.just(math.nan), min_size=1, max_size=400)


@given(values=NUMBERS, most=st.integers(2, 60), gap=st.integers(1, 9))
def test_no_extreme_is_lost_and_every_point_is_a_real_one(values, most, gap):
    whole = Curve(steps=[place * gap for place in range(len(values))], values=values)
    kept = drawn(whole, most)
    real = dict(zip(whole.steps, map(repr, whole.values), strict=True))
    assert all(real[step] == repr(value) for step, value in zip(kept.steps, kept.values, strict=True))
    finite, left = ([value for value in each if math.isfinite(value)] for each in (whole.values, kept.values))
    assert (not finite and not left) or (min(finite), max(finite)) == (min(left), max(left))
    assert list(kept.steps) == sorted(set(kept.steps))
    assert (kept.steps[0], kept.steps[-1]) == (whole.steps[0], whole.steps[-1])
    assert len(kept.steps) <= max(most, 3 * (most // 2) + 2)
    assert any(map(math.isnan, whole.values)) <= (len(left) < len(kept.values)) or not finite


def test_a_long_curve_is_smoothed_from_the_means_of_its_stretches():
    kept = drawn(curve(*([0.0, 10.0] * 500)), 20)
    assert set(kept.means[1]) == {5.0}
    assert len(kept.means[0]) == 10


def test_a_short_curve_is_drawn_whole():
    assert drawn(curve(1.0, 2.0), 20).as_json() == {"steps": [1, 2], "values": [1, 2]}


def test_what_is_no_number_is_null_and_figures_have_six_digits():
    assert drawn(curve(math.nan, 1 / 3, 1e-9 / 3, 123456789.0)).as_json()["values"] == [
        None,
        0.333333,
        3.33333e-10,
        123457000,
    ]


def test_many_curves_share_the_room_of_the_page():
    curves = [curve(*range(5000)) for _ in range(60)]
    assert most_points(curves[:3]) == 4000
    assert most_points(curves) * 60 <= ALL_POINTS


def test_of_a_step_that_comes_twice_the_later_value_counts():
    points = [
        Point(step=step, time=0, metrics={"loss": value}) for step, value in ((1, 1.0), (2, 2.0), (2, 3.0), (1, 4.0))
    ]
    assert dict(zip(*attrs.astuple(curves_of(points)["loss"]), strict=True)) == {1: 4.0, 2: 3.0}


def test_a_summary_says_where_the_extremes_are():
    found = curve(3.0, math.nan, 1.0, 2.0).summary.as_json()
    assert found == {
        "points": 4, "missing": 1, "first": 3.0, "last": 2.0, "mean": 2.0, "median": 2.0,
        "min": 1.0, "min_step": 3, "max": 3.0, "max_step": 1,
    }  # fmt: skip
    assert curve(math.nan).summary.as_json()["max"] is None


def test_what_turns_text_around_is_told_in_tips_as_it_is_elsewhere():
    mark = Mark(step=1, kind="notice", text="a\u202eb", number=1)
    assert json.loads(plots([], [mark]).data)["marks"][0]["text"] == "a\\u202eb"


def test_figures_of_an_explosion_do_not_cost_the_page():
    found = curve(*[1.5e308] * 3, 1.0)
    assert found.summary.mean == pytest.approx(1.125e308)
    assert drawn(found, 2).means[1]
    assert (number(1.5e308), number(-2e15), number(1e14)) == ("1.50e+308", "-2.00e+15", "100,000,000,000,000")


def test_charts_share_what_belongs_together():
    names = [
        "loss",
        "eval_loss",
        "eval_exact",
        "eval_length",
        "own",
        "system/gpu10/power",
        "system/gpu2/power",
        "tokens",
    ]
    values = {name: curve(0.5) for name in names} | {"eval_length": curve(7.0), "eval_target/left": curve(1.0)}
    found = {chart.title: [series.label for series in chart.series] for chart in charts_of(values)}
    assert found == {
        "Loss": ["training", "held-out rows"],
        "Scores on held-out rows": ["exact"],
        "Power": ["GPU 2", "GPU 10"],
        "length": ["length"],
        "own": ["own"],
    }


# -- markup ---------------------------------------------------------------------------------------


def test_only_markup_is_not_escaped():
    assert tag("p", "<b>", tag("i", "&"), title='"') == '<p title="&quot;">&lt;b&gt;<i>&amp;</i></p>'
    assert tag("input", disabled=True, checked=False, value=None) == "<input disabled>"
    assert isinstance(table("a", ["b"], [["c"]]), Html)


def test_what_would_move_other_text_is_shown_as_an_escape():
    assert tag("p", "a\u202eb\x1b[0m") == "<p>a\\u202eb\\x1b[0m</p>"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "\u2013"),
        (math.nan, "\u2013"),
        (3.0, "3"),
        (1234567.0, "1,234,567"),
        (0.123456, "0.1235"),
        (2e-5, "2.00e-05"),
        (12345.6, "12,346"),
    ],
)
def test_numbers_are_short(value, shown):
    assert number(value) == shown


def test_times_and_changes_are_short():
    assert [duration(value) for value in (0.44, 41.2, 3720, 90000, None)] == [
        "0.4 s",
        "41 s",
        "1 h 2 min",
        "1 d 1 h",
        "",
    ]
    assert [change(1.0, 0.5), change(1.0, 1.0), change(None, 1.0)] == ["\u22120.5", "no change", "\u2013"]
    assert shortened("abc", 2) == ("ab", "1 more characters are left out here; report.json has them")


@given(st.text())
def test_no_text_ends_the_element_that_holds_the_data(words):
    held = as_script({"name": words})
    assert "<" not in held
    assert json.loads(held) == {"name": words}


# -- the page -------------------------------------------------------------------------------------


def test_the_page_has_every_part(text):
    assert [words for words in seen(text).words if words] == [
        "health", "curves", "scores", "samples", "speed", "labels", "data", "exports", "configuration", "versions",
    ]  # fmt: skip


def test_its_policy_allows_its_own_script_and_style_alone(text):
    policy = next(attributes["content"] for name, attributes in seen(text).tags if attributes.get("http-equiv"))
    for name in ("style", "script"):
        held = re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(words.encode()).digest()).decode() for words in held]
        assert [f"{name}-src 'sha256-{digest}'" in policy for digest in digests] == [True]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_it_loads_nothing_and_data_stays_text(text):
    found = seen(text)
    assert {name for name, _ in found.tags if name in ("link", "iframe", "object", "base", "form")} == set()
    sources = [attributes["src"] for _, attributes in found.tags if "src" in attributes]
    assert len(sources) == 6
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(attributes["href"].startswith("#") for _, attributes in found.tags if "href" in attributes)
    assert not [attributes for _, attributes in found.tags if any(key.startswith("on") for key in attributes)]
    assert not [attributes for _, attributes in found.tags if "style" in attributes]
    assert sum(name == "script" for name, _ in found.tags) == 2
    assert NASTY in found.words["samples"]


def test_a_name_from_a_profile_stays_text(made):
    record = read_record(made)
    record = attrs.evolve(
        record, manifest=attrs.evolve(record.manifest, name=NASTY, reason=NASTY, model={"base": NASTY})
    )
    found = seen(page(record))
    assert sum(name == "script" for name, _ in found.tags) == 2
    assert not [attributes for name, attributes in found.tags if name == "img" and attributes.get("src") == "x"]


def test_the_same_run_gives_the_same_bytes(made, text):
    assert page(read_record(made)) == text


def test_the_ledger_adds_up_and_says_so_if_not(record, text):
    assert "They add up." in seen(text).words["data"]
    broken = attrs.evolve(record.manifest, data={"ledger": {**LEDGER, "trained": 1}})
    assert "They do not add up: the parts make 521." in page(attrs.evolve(record, manifest=broken))


def test_notices_are_listed_and_marked(record, text):
    words = seen(text).words["health"]
    assert "step 222" in words
    assert "docs/health.md#gradients-explode" in words
    kinds = [(mark.kind, mark.step, mark.number) for mark in marks_of(record) if mark.kind != "checkpoint"]
    assert kinds == [("notice", 222, 1), ("notice", 372, 2), ("resumed", 300, 0)]


def test_scores_are_there_before_during_and_after(text):
    words = seen(text).words["scores"]
    for part in (
        "action_accuracy",
        "0.2",
        "during (step 600, 6 rows)",
        "Confusion after training",
        "Actions wanted and answered",
    ):
        assert part in words


def test_of_a_run_that_never_ended_the_last_scores_while_training_are_shown(record):
    manifest = attrs.evolve(record.manifest, scores={"before": record.manifest.scores["before"], "after": {}})
    words = seen(page(attrs.evolve(record, manifest=manifest))).words["scores"]
    assert "Confusion at step 600, 6 rows" in words
    assert "after training" not in words


def test_names_of_actions_may_hold_slashes():
    scores = {"target/a/b": 1.0, "target/a": 2.0, "predicted/b/c": 1.0, "predicted/c": 1.0, "confusion/a/b/c": 1.0}
    assert action_names(scores) == ["a", "a/b", "b/c", "c"]
    assert confusion(scores, action_names(scores)) == {("a", "b/c"): 1.0}


def test_exports_and_versions_are_there(text):
    words = seen(text).words
    assert "exports/merged" in words["exports"]
    assert "its images are not compared" in words["exports"]
    assert "0.1.0" in words["versions"]
    assert "targets = [" in words["configuration"]


def test_a_curve_that_is_thinned_says_so(tmp_path, record):
    assert "no extreme is lost" not in page(record)
    long = attrs.evolve(record, curves={"loss": curve(*map(float, range(9000)))})
    assert "A curve of more than 4,000 points is drawn from the lowest and the highest value" in page(long)


# -- images ---------------------------------------------------------------------------------------


def test_images_are_png_files_of_the_run(tmp_path):
    run = tmp_path / "run"
    (run / "samples").mkdir(parents=True)
    (run / "samples" / "good.png").write_bytes(grid(1))
    (run / "samples" / "bad.png").write_text("no image")
    (tmp_path / "outside.png").write_bytes(grid(2))
    (run / "samples" / "link.png").symlink_to(tmp_path / "outside.png")
    images = Images(run)
    assert images.source("samples/good.png").startswith("data:image/png;base64,")
    names = ["samples/bad.png", "samples/link.png", "../outside.png", "samples", "gone.png", "a\0b", "x" * 5000]
    assert [images.source(name) for name in names] == [""] * len(names)
    assert images.left_out == len(names)


def test_images_that_would_make_the_page_too_large_are_left_out_and_counted(made, record, monkeypatch):
    small = Images(made, room=len(grid(0)) * 2 + 10)
    assert "4 images are not shown" in samples.samples(record, small)


# -- what is trained ------------------------------------------------------------------------------


def test_labels_are_kept_while_the_rows_are_there(desk):
    outcome = engine.run(desk.load())
    rows = labels.read_labels(outcome.folder)
    assert len(rows) == labels.ROWS
    shown = [(piece.text, piece.trained) for piece in rows[0].pieces.head]
    assert rows[0].trained == sum(trained for _, trained in shown)
    prompt = "".join(text for text, trained in shown if not trained)
    assert prompt.startswith("what is ")


def test_a_tokenizer_that_fails_costs_the_view_alone(tmp_path, desk, display, monkeypatch):
    monkeypatch.setattr(labels, "pieces_of", lambda *_: 1 / 0)
    outcome = engine.run(desk.load(), display=display)
    assert outcome.state == "finished"
    assert any("will not show what is trained of a row (ZeroDivisionError" in line for line in display.lines)


@pytest.mark.parametrize("content", ["", "[]", '{"rows": [{"origin": 1}]}', '{"rows": [{"pieces": {"head": [1]}}]}'])
def test_damaged_labels_are_none(tmp_path, content):
    (tmp_path / "samples").mkdir()
    (tmp_path / labels.FILE).write_text(content)
    assert labels.read_labels(tmp_path) == []


# -- the folder -----------------------------------------------------------------------------------


def event(kind: EventKind, step: int, **values) -> Event:
    return Event(kind=kind, step=step, time=0.0, values=values)


def test_what_happened_again_is_told_once():
    events = [
        event(EventKind.STARTED, 0, from_step=0),
        event(EventKind.NOTICE, 3, text="stays"),
        event(EventKind.NOTICE, 7, text="goes"),
        event(EventKind.DATA, 7),
        event(EventKind.STARTED, 5, from_step=5),
        event(EventKind.NOTICE, 7, text="comes"),
    ]
    assert [each.values.get("text") for each in lasting(events)] == [None, "stays", None, None, "comes"]


def test_a_killed_run_with_a_torn_line_has_a_report(made, tmp_path, ftcore):
    folder = tmp_path / "killed"
    folder.mkdir()
    manifest = json.loads((made / "manifest.json").read_text())
    manifest.update(state="running", ended="", samples=[], exports=[], loss={"before": 2.9, "after": None})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "metrics.jsonl").write_bytes((made / "metrics.jsonl").read_bytes()[:5000])
    (folder / "events.jsonl").write_bytes(
        b'{"event": "started", "step": 0, "time": 1, "from_step": "x"}\n{"event": "no'
    )
    code, out, _ = ftcore("report", folder)
    assert (code, out.startswith(f"wrote {folder / 'report.html'}: 0.")) == (0, True)
    words = seen((folder / "report.html").read_text()).words
    assert "interrupted after" in " ".join(words[""].split())
    assert not (folder / "report.json").exists()


def test_an_old_run_without_events_has_a_report(made, tmp_path, ftcore):
    (tmp_path / "manifest.json").write_bytes((made / "manifest.json").read_bytes())
    assert ftcore("report", tmp_path)[0] == 0
    words = seen((tmp_path / "report.html").read_text()).words
    assert "The run kept no journal of notices." in words["health"]
    assert "Nothing was measured yet." in words["curves"]


def test_evaluations_are_there(made, tmp_path):
    record = read_record(made)
    interval = {"value": 0.5, "low": 0.4, "high": 0.6, "draws": 1000}
    found = {
        "weights": "base",
        "step": 0,
        "loss": interval,
        "scores": {"exact": interval},
        "rows": {"name": "test", "count": 9},
    }
    record = attrs.evolve(record, evaluations={"test-base": {**found, "samples": [1]}, "odd": {"loss": "?"}})
    words = seen(page(record)).words["evaluations"]
    for part in ("test-base", "base weights of step 0", "9 rows of test", "0.4", "exact"):
        assert part in words
    assert as_json(record)["evaluations"]["test-base"] == found


# -- report.json ----------------------------------------------------------------------------------


def test_a_run_ends_with_both(desk):
    outcome = engine.run(desk.load())
    found = json.loads((outcome.folder / "report.json").read_text())
    assert found["outcome"] == "finished"
    assert found["curves"]["loss"]["points"] == 10
    assert found["loss"] == {"before": outcome.loss_before, "after": outcome.loss_after}
    assert found["settings"] == read_manifest(outcome.folder).settings
    text = (outcome.folder / "report.html").read_text()
    assert {"curves", "samples", "labels", "data", "exports"} <= set(seen(text).words)


def test_a_failed_run_has_a_report_as_well(desk, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "step:6=RunError")
    with pytest.raises(Exception, match="light fault"):
        engine.run(desk.load())
    (folder,) = desk.runs()
    words = seen((folder / "report.html").read_text()).words
    assert "failed after 5 of 10 steps: light fault in step:6" in " ".join(words[""].split())
    assert json.loads((folder / "report.json").read_text())["outcome"] == "failed"


@pytest.mark.parametrize("part", ["page", "read_record"])
def test_what_breaks_the_page_is_told_and_harms_nothing(desk, display, monkeypatch, part):
    monkeypatch.setattr(document, part, lambda *_: 1 / 0)
    outcome = engine.run(desk.load(), display=display)
    assert outcome.state == "finished"
    assert json.loads((outcome.folder / "report.json").read_text())["outcome"] == "finished"
    (told,) = [line for line in display.lines if "report.html" in line]
    assert "was not written (ZeroDivisionError: division by zero); to try again: ftcore report" in told


def test_its_figures_are_those_of_the_metrics(made, record):
    write_report(made, read_manifest(made))
    found = json.loads((made / "report.json").read_text())
    losses = [point.metrics["loss"] for point in read_points(made / "metrics.jsonl") if "loss" in point.metrics]
    finite = [loss for loss in losses if math.isfinite(loss)]
    assert found["curves"]["loss"]["max"] == max(finite)
    assert found["curves"]["loss"]["missing"] == 1
    assert [notice["sign"] for notice in found["notices"]] == ["gradients-explode", "not-a-number"]
    assert [each["when"] for each in found["evaluated"]] == ["before", *["during"] * 10, "after"]
    assert found["parameters"] == {"total": 4300079472, "trainable": 38490112}


# -- the command ----------------------------------------------------------------------------------


def test_several_runs_make_one_page(made, tmp_path, ftcore, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = Synthetic(folder=tmp_path / "synthetic", steps=90, name=NASTY).write()
    assert ftcore("report", made, other)[0] == 0
    words = seen((tmp_path / "comparison.html").read_text()).words
    assert list(words)[1:] == ["figures", "curves", "samples", "speed", "configuration"]
    assert "synthetic (2)" in words["figures"]
    assert "train.max_steps" in words["configuration"]
    assert "run.seed" not in words["configuration"]


def test_a_comparison_is_the_same_each_time(record):
    assert comparison([record, record]) == comparison([record, record])


def test_settings_are_compared_by_key_path():
    assert flat({"train": {"max_steps": 1}, "plugin": {"x": {}}}) == {
        "train": "(on)", "train.max_steps": "1", "plugin": "(on)", "plugin.x": "(on)",
    }  # fmt: skip


def test_json_is_what_the_file_holds(made, ftcore):
    code, out, _ = ftcore("report", made, "--json")
    assert code == 0
    assert json.loads(out)["step"] == STEPS
    assert len(json.loads(ftcore("report", made, made, "--json")[1])) == 2


def test_a_page_can_be_written_elsewhere_and_shown(made, tmp_path, ftcore, monkeypatch):
    shown = []
    monkeypatch.setattr("webbrowser.open", lambda address: shown.append(address) or True)
    path = tmp_path / "page.html"
    assert ftcore("report", made, "--output", path, "--open")[0] == 0
    assert shown == [path.as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    code, _, err = ftcore("report", made, "--output", path, "--open")
    assert (code, err) == (1, f"no browser was found to open {path}; open it yourself\n")


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ("page.txt", "--output page.txt: write a file name that ends with .html"),
        ("folder.html", "--output folder.html: that is a folder"),
        ("nowhere/page.html", "--output nowhere/page.html: no such folder"),
    ],
)
def test_a_wrong_output_is_told(made, tmp_path, ftcore, monkeypatch, output, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    assert ftcore("report", made, "--output", output)[::2] == (2, f"{complaint}\n")


def test_what_is_no_run_is_told(tmp_path, ftcore):
    code, _, err = ftcore("report", tmp_path)
    assert (code, err) == (1, f"{tmp_path} is no run folder: it has no manifest.json\n")


def test_a_folder_that_cannot_be_written_is_told(made, ftcore, monkeypatch):
    def full(path, text):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("ftcore.files.replace_text", full)
    code, _, err = ftcore("report", made)
    assert code == 1
    assert err.startswith(
        f"{made / 'report.html'} cannot be written (Read-only file system); write it elsewhere: ftcore"
    )


def test_a_killed_run_that_is_exported_is_not_called_running(made):
    killed = attrs.evolve(read_manifest(made), state=RunState.RUNNING)
    killed.write(made)
    with borrowed(made):
        assert read_record(made, killed).state == "interrupted"
