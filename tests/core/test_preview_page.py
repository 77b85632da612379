"""The page of `ftcore preview --html`: what it shows, that it loads nothing, and that data stays text."""

from __future__ import annotations

import base64
import hashlib
import re
from array import array
from html.parser import HTMLParser
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcore.cli import main
from ftcore.data.prepare import Prepared
from ftcore.preview import figures as figures_module
from ftcore.preview import markup
from ftcore.preview import page as page_module
from ftcore.preview.figures import figures, sums
from ftcore.preview.histogram import BINS, FEWEST, drawn, histogram
from ftcore.preview.page import page
from ftcore.preview.pieces import marks_of, pieces_of
from ftcore.preview.text import as_json, show
from ftcore.testing import make_run
from ftcore.values import MASKED, Drop, Example, Format, Ledger, PreparedData, Rows
from light_plugins import END, Characters, collate

IMAGE, START_OF_IMAGE = 5, 6
NAMES = {IMAGE: "<image>", START_OF_IMAGE: "<start_of_image>", END: "<end>"}
NASTY = "</pre><script>alert(1)</script> & \"'` <img src=x onerror=y> https://evil.example $name\u202e\x1b[31m"


class Named(Characters):
    """Characters, with names for the special tokens as a real tokenizer has them."""

    def decode(self, tokens, **options):
        return "".join(NAMES.get(token, chr(token)) for token in tokens)


class Bytes:
    """A tokenizer whose letters may be spread over several tokens, as those of byte-level BPE are."""

    def decode(self, tokens, **options):
        return bytes(tokens).decode("utf-8", "replace")


class Stripping:
    """A tokenizer that strips the first space of a text, as Llama 2's does."""

    def decode(self, tokens, **options):
        return "".join(map(chr, tokens)).removeprefix(" ")


def example(prompt: str, reply: str, origin: str = "x:1", before: tuple[int, ...] = ()) -> Example:
    masked = [*before, *map(ord, prompt)]
    trained = [*map(ord, reply), END]
    return Example(
        input_ids=[*masked, *trained], labels=[MASKED] * len(masked) + trained, replies=(reply,), origin=origin
    )


def prepared(*examples: Example, processor=None, dropped=(), repeated=0) -> Prepared:
    count = len(examples) - repeated
    data = PreparedData(
        train=examples,
        validation=(),
        lengths=array("I", (len(each.input_ids) for each in examples)),
        collate=collate,
        ledger=Ledger(rows=count + len(dropped), trained=count, held_out=0, dropped=dropped, repeated=repeated),
        end_of_turn=END,
        never_trained=frozenset({IMAGE, START_OF_IMAGE}),
    )
    shown = processor or Named()
    return Prepared(
        processor=shown,
        data=data,
        fingerprint="ab" * 32,
        proved=len(examples),
        format=Format(encode=iter, collate=collate, processor=shown, end_of_turn=END),
        rows=Rows(train=(), validation=(), fingerprint=""),
    )


def written(*examples: Example, count: int = 10, name: str = "test", max_length: int = 2048, **rest) -> str:
    run = make_run(Path(), train={"max_length": max_length}, model={"id": "google/gemma"})
    return page(attrs.evolve(run, name=name), prepared(*examples, **rest), count).text


@attrs.define
class Seen(HTMLParser):
    """What a browser would find: elements with their attributes, and the spans inside `pre`."""

    tags: list[tuple[str, dict[str, str | None]]] = attrs.field(factory=list)
    spans: list[tuple[dict[str, str | None], str]] = attrs.field(factory=list)
    text: str = ""
    depth: int = 0

    def __attrs_pre_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.depth += tag == "pre"
        if tag == "span" and self.depth:
            self.spans.append((dict(attributes), ""))

    def handle_endtag(self, tag):
        self.depth -= tag == "pre"

    def handle_data(self, data):
        self.text += data
        if self.depth and self.spans:
            attributes, text = self.spans[-1]
            self.spans[-1] = (attributes, text + data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def seen(text: str) -> Seen:
    parser = Seen()
    parser.feed(text)
    parser.close()
    return parser


def positions(title: str) -> range:
    first, _, last = title.partition(" at ")[2].partition(" to ")
    return range(int(first), int(last or first) + 1)


# -- tokens ---------------------------------------------------------------------------------------


def test_trained_tokens_are_marked_and_no_others():
    rows = [example("what?\n", "that is\tit", before=(START_OF_IMAGE, *[IMAGE] * 256)), example("a", "b", "x:2")]
    found = seen(written(*rows)).spans
    labels = [label for row in rows for label in row.labels]
    marked: list[bool] = []
    for attributes, _ in found:
        marked += ["t" in str(attributes["class"]).split()] * len(positions(attributes["title"]))
    assert marked == [label != MASKED for label in labels]


def test_a_run_of_image_tokens_is_one_chip():
    row = example("go", "left", before=(START_OF_IMAGE, *[IMAGE] * 256, START_OF_IMAGE, *[IMAGE] * 4))
    chips = [(str(attributes["title"]), text) for attributes, text in seen(written(row)).spans][:4]
    assert chips == [
        ("6 at 0", "<start_of_image>"),
        ("5 at 1 to 256", "256 \xd7 <image>"),
        ("6 at 257", "<start_of_image>"),
        ("5 at 258 to 261", "4 \xd7 <image>"),
    ]


def test_special_tokens_of_the_tokenizer_are_chips():
    @attrs.frozen
    class Added:
        special: bool

    processor = Named()
    processor.added_tokens_decoder = {END: Added(True), ord("a"): Added(False)}
    spans = seen(written(example("a", "b"), processor=processor)).spans
    assert [str(attributes["class"]) for attributes, _ in spans] == ["m", "t", "t k"]
    assert spans[-1][1] == "<end>"


def test_a_processor_with_a_tokenizer_inside():
    class Processor:
        tokenizer = Named()

    assert "go" in "".join(text for _, text in seen(written(example("go", "left"), processor=Processor())).spans)


def test_white_space_is_kept_and_what_is_invisible_is_escaped():
    spans = seen(written(example("a \n\t\u202eb\x1b", "c"))).spans
    assert [text for _, text in spans] == ["a", " ", "\n", "\t", r"\u202e", "b", r"\x1b", "c", "<end>"]
    assert "<i> </i>" in written(example("a b", "c"))


def test_a_space_that_the_tokenizer_strips_from_a_text_is_shown():
    pieces = pieces_of(Stripping(), example("a b", "c"), frozenset(), 100).head
    assert [piece.text for piece in pieces] == ["a", " ", "b", "c", "\x03"]


@given(st.text().filter(lambda text: "\ufffd" not in text))
def test_letters_of_several_tokens_are_whole(text):
    ids = list(text.encode())
    row = Example(input_ids=ids, labels=[MASKED] * len(ids), replies=(), origin="x:1")
    pieces = pieces_of(Bytes(), row, frozenset(), 10_000).head
    assert "".join(piece.text for piece in pieces) == text
    assert [token for piece in pieces for token in piece.ids] == ids
    assert all(len(piece.text) == 1 for piece in pieces)


@given(st.lists(st.tuples(st.integers(0, 255), st.booleans(), st.sampled_from([1, 1, 3]))), st.integers(2, 40))
def test_pieces_cover_every_token_once(tokens, most):
    ids = [token for token, _, times in tokens for _ in range(times)]
    labels = [token if trained else MASKED for token, trained, times in tokens for _ in range(times)]
    row = Example(input_ids=ids, labels=labels, replies=(), origin="x:1")
    found = pieces_of(Bytes(), row, frozenset(range(200, 256)), most)
    covered = [range(piece.start, piece.last + 1) for piece in (*found.head, *found.tail)]
    places = [place for part in covered for place in part]
    assert places == sorted(set(places))
    assert len(places) + found.left_out == len(ids)
    for piece in (*found.head, *found.tail):
        assert {label != MASKED for label in labels[piece.start : piece.last + 1]} == {piece.trained}


def test_of_a_long_row_the_middle_is_left_out(monkeypatch):
    monkeypatch.setattr(markup, "MOST_PIECES", 20)
    text = written(example("p" * 100, "reply"))
    spans = seen(text).spans
    assert len(spans) == 20
    assert "86 tokens are left out here" in text
    assert "t" in str(spans[-1][0]["class"]).split()


# -- safe, and by itself --------------------------------------------------------------------------


def test_what_comes_from_data_stays_text():
    drop = Drop(origin=NASTY, reason=NASTY)
    text = written(example(NASTY, NASTY, origin=NASTY), name=NASTY, dropped=(drop,))
    found = seen(text)
    allowed = "html head meta title style body header h1 h2 dl dt dd code section svg rect line text p table tr th td"
    assert {tag for tag, _ in found.tags} <= {*allowed.split(), "span", "pre", "i", "u", "b", "footer"}
    names = {name for _, attributes in found.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "href", "style")]
    assert found.text.count("<script>alert(1)</script>") == 7, "title, two headings, a drop's two, prompt, reply"
    assert "\u202e" not in text
    assert "\x1b" not in text


def test_the_policy_forbids_all_but_this_style_and_inline_images():
    text = written(example("a", "b"))
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [meta["content"] for meta in seen(text).all("meta") if "http-equiv" in meta]
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_nothing_is_loaded():
    text = written(example("a", "b"), dropped=(Drop(origin="x:3", reason="empty"),))
    assert not re.search(r"https?:|url\(|src=|href=|@import|<script|<link|<iframe", text)


# -- figures --------------------------------------------------------------------------------------


def test_the_header_says_where_every_row_went():
    drops = tuple(Drop(origin=f"x:{n}", reason="empty reply") for n in range(1, 8))
    text = seen(written(example("a", "b"), example("a", "b"), name="grid", dropped=drops, repeated=1)).text
    for said in (
        "grid",
        "google/gemma",
        "8 in = 1 trained + 0 held out + 7 dropped",
        "7 dropped: empty reply (x:1, x:2, x:3, x:4, x:5, ...)",
        "1 more in an epoch, since data.weights repeats rows",
        "proved on 2 rows",
        "67% of the tokens are trained",
        "2 of 2 training rows",
    ):
        assert said in text


def test_rows_none_and_too_many():
    assert seen(written(example("a", "b"), count=0)).spans == []
    assert len(seen(written(example("a", "b"), count=9)).all("pre")) == 1


def test_a_page_has_a_largest_size(monkeypatch):
    monkeypatch.setattr(page_module, "MOST_BYTES", 1000)
    rows = [example("p" * 50, "r", f"x:{n}") for n in range(5)]
    text = written(*rows)
    assert len(seen(text).all("pre")) == 1
    assert "1 of 5 rows: with more, this page would be larger than" in text


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=300), st.integers(0, 200_000))
def test_every_row_is_in_its_bin(lengths, limit):
    bins = histogram(lengths, limit)
    assert sum(bins.counts) == len(lengths)
    for place, count in enumerate(bins.counts):
        first = bins.start + place * bins.width
        assert count == sum(first <= length < first + bins.width for length in lengths)
    assert len(bins.counts) <= max(BINS, FEWEST) + 2
    assert bins.start >= 0


def test_the_bars_add_up_and_the_limit_is_drawn_where_it_is_near():
    lengths = [*range(100, 200), *[150] * 20]
    percentiles = {"p50": 150, "p90": 190, "p99": 199}
    drawing = drawn(lengths, percentiles, 256)
    counts = [int(count) for count in re.findall(r"tokens: (\d+) rows", drawing)]
    assert sum(counts) == 120
    for said in ("p50: 150", "p90: 190", "p99: 199", "max_length: 256"):
        assert said in drawing
    assert "max_length" not in drawn(lengths, percentiles, 2048)


def test_rows_of_one_length():
    drawing = drawn([1025] * 57, {"p50": 1025, "p90": 1025, "p99": 1025}, 1200)
    assert "1,025 to 1,029 tokens: 57 rows" in drawing
    assert drawing.count("p50, p90, p99: 1,025") == 1
    assert "max_length: 1,200" in drawing


def test_of_a_large_set_a_sample_is_read_and_that_is_said(monkeypatch, capsys):
    monkeypatch.setattr(figures_module, "SAMPLE", 10)
    many = prepared(*(example("prompt", "r" * (n % 7 + 1), f"x:{n}") for n in range(100)))
    found = figures(many.data)
    assert found.sampled == 10
    assert found == figures(many.data), "the same rows each time"
    assert found.lengths["p100"] == max(many.data.lengths)
    assert as_json(many, 0)["sampled"] == 10
    assert "(counted on 10 rows, drawn at random)" in written(*many.data.train)
    show(many, 0, colour=False)
    assert "(trained tokens are those of 10 rows, drawn from 100)" in capsys.readouterr().out


def test_sums_in_words():
    ledger = Ledger(
        rows=4, trained=1, held_out=1, dropped=(Drop(origin="x:1", reason="a"), Drop(origin="x:2", reason="b"))
    )
    assert list(sums(ledger, 2)) == [
        "4 rows in = 1 trained + 1 held out + 2 dropped",
        "  1 dropped: a (x:1)",
        "  1 dropped: b (x:2)",
        "labels proved on 2 rows",
    ]


def test_image_tokens_are_short_in_the_text_too(capsys):
    show(prepared(example("go", "left", before=(START_OF_IMAGE, *[IMAGE] * 256))), 1, colour=False)
    assert "<start_of_image>{256 x <image>}go[left<end>]" in capsys.readouterr().out


def test_marks_are_what_is_never_trained():
    assert marks_of(prepared(example("a", "b"))) == {IMAGE, START_OF_IMAGE}


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def preview(desk, capsys):
    """`ftcore preview` of the light profile: exit code, standard output, standard error."""

    def call(*arguments):
        try:
            code = main(["preview", str(desk.profile), *map(str, arguments)])
        except SystemExit as leave:
            code = leave.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.mark.parametrize(("arguments", "name"), [([], "preview.html"), (["rows.HTML"], "rows.HTML")])
def test_the_command_writes_a_page_and_says_where(desk, preview, arguments, name):
    code, out, err = preview("--html", *arguments, "--rows", 2)
    assert (code, err) == (0, "")
    assert out.startswith(f"wrote {desk.folder / name}: 2 rows, 0.0 MB")
    found = seen((desk.folder / name).read_text("utf-8"))
    assert len(found.all("pre")) == 2
    assert "12 in = 9 trained + 3 held out + 0 dropped" in found.text
    assert desk.runs() == []


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("light.toml", "--html light.toml: write a file name that ends with .html"),
        ("nowhere/page.html", "--html nowhere/page.html: no such folder"),
        ("folder.html", "--html folder.html: that is a folder"),
    ],
)
def test_a_page_that_cannot_be_written_is_told_before_the_rows_are_read(desk, preview, page, complaint, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "load_rows=ValueError")
    (desk.folder / "folder.html").mkdir()
    profile = desk.profile.read_text("utf-8")
    assert preview("--html", page) == (2, "", f"{complaint}\n")
    assert desk.profile.read_text("utf-8") == profile


def test_json_and_a_page_at_once_are_refused(preview):
    code, _, err = preview("--json", "--html")
    assert code == 2
    assert "not allowed with argument --json" in err
