"""The profile language: layers, origins, the command line's share, and a place for every problem."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftcore.errors import ExitCode, PluginError, ProfileError
from ftcore.preflight import load_profile
from ftcore.profile import read_profile

# -- layers ---------------------------------------------------------------------------------------


def test_the_hardware_profile_lies_under_the_profile_and_the_command_line_above_it(desk):
    desk.write('[train]\nprecision = "bf16"\nbatch_size = 4\nlog_steps = 7\nseed_of = 1\n', "box.toml")
    path = desk.write('[hardware]\nprofile = "box.toml"\n[train]\nbatch_size = 16\nlog_steps = 9\n')
    tables = read_profile(path, sets=["train.log_steps=11"]).tables
    assert tables["train"] == {"precision": "bf16", "batch_size": 16, "log_steps": 11, "seed_of": 1}


def test_each_key_remembers_its_layer(desk):
    box = desk.write('[train]\nprecision = "bf16"\n', "box.toml")
    path = desk.write('[hardware]\nprofile = "box.toml"\n[train]\nbatch_size = 16\n')
    source = read_profile(path, sets=["train.log_steps=11"])
    files = {key: source.layer_of(("train", key)) for key in ("precision", "batch_size", "log_steps", "epochs")}
    assert {key: layer and layer.file for key, layer in files.items()} == {
        "precision": box.resolve(),
        "batch_size": path,
        "log_steps": None,
        "epochs": None,
    }
    assert files["log_steps"] is not None, "the command line is a layer, though it is no file"


def test_a_hardware_profile_can_switch_a_plugin_on_and_the_profile_can_change_its_options(desk):
    desk.write("[plugin.light_score]\n\n[plugin.light_trainer]\nshrink = 0.5\n", "box.toml")
    desk.replace('profile = "cpu"', 'profile = "box.toml"')
    desk.replace("[plugin.light_trainer]", "[plugin.light_trainer]\nshrink = 0.75")
    loaded = desk.load()
    configs = {plugin.source.name: plugin.config for plugin in loaded.active}
    assert "light_score" in configs
    assert configs["light_trainer"].shrink == 0.75


def test_a_shipped_hardware_profile_is_found_by_name_and_a_wrong_name_tells_the_nearest(desk, complaints):
    desk.replace('profile = "cpu"', 'profile = "cpuu"')
    (text,) = complaints(desk.profile)
    assert text.startswith("light.toml:6: hardware.profile: no hardware profile 'cpuu' (")
    assert text.endswith("; did you mean 'cpu'?")
    desk.replace('"cpuu"', '"cpu"')
    assert desk.load().profile.hardware.device == "cpu"


def test_a_mistake_in_the_hardware_profile_names_the_hardware_profile(desk, complaints):
    desk.write("\n\n[train]\nmicro_batch_sise = 2\n", "box.toml")
    desk.replace('profile = "cpu"', 'profile = "box.toml"')
    (text,) = complaints(desk.profile)
    assert text == "box.toml:4: train.micro_batch_sise: unknown key; did you mean 'micro_batch_size'?"


def test_a_missing_hardware_profile_is_reported_where_it_is_named(desk, complaints):
    desk.replace('profile = "cpu"', 'profile = "box.toml"')
    (text,) = complaints(desk.profile)
    assert text.startswith("light.toml:6: hardware.profile: no such file: box.toml (looked in ")


def test_syntax_errors_in_the_hardware_profile_name_it(desk, complaints):
    desk.write("[train]\nx = \n", "box.toml")
    desk.replace('profile = "cpu"', 'profile = "box.toml"')
    (text,) = complaints(desk.profile)
    assert text.startswith("box.toml:2: not valid TOML: ")


# -- the command line's share ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "table", "key", "value"),
    [
        ("train.learning_rate=3e-4", "train", "learning_rate", 3e-4),
        ("train.learning_rate = 3e-4", "train", "learning_rate", 3e-4),
        ("train.max_steps=12", "train", "max_steps", 12),
        ("train.activation_checkpointing=true", "train", "activation_checkpointing", True),
        ("model.id=org/some-model", "model", "id", "org/some-model"),
        ('model.id="org/quoted"', "model", "id", "org/quoted"),
        ("model.id='literal'", "model", "id", "literal"),
        ("model.id=a=b", "model", "id", "a=b"),
        ("model.id=über/模型", "model", "id", "über/模型"),
        ("run.name=", "run", "name", "light"),  # empty: the profile's file name
        ('"run"."name"=quoted', "run", "name", "quoted"),
    ],
)
def test_set_is_typed_as_toml_and_anything_else_is_a_string(desk, text, table, key, value):
    settings = desk.load(sets=[text]).settings()
    assert settings[table][key] == value
    assert type(settings[table][key]) is type(value)


def test_a_later_set_wins(desk):
    assert desk.load(sets=["train.max_steps=5", "train.max_steps=6"]).profile.train.max_steps == 6


def test_set_reaches_lists_and_tables_of_a_plugin(desk):
    desk.installation.plugin(
        "lists",
        """
        @attrs.frozen(kw_only=True)
        class Config:
            names: tuple[str, ...] = option((), help="names")
            sizes: dict[str, int] = option(help="sizes", default=attrs.Factory(dict))
        class Plugin:
            Config = Config
            def __init__(self, config): ...
        """,
    )
    loaded = desk.load(sets=['plugin.lists.names=["a", "b"]', "plugin.lists.sizes.small=1"])
    config = loaded.active[-1].config
    assert (config.names, config.sizes) == (("a", "b"), {"small": 1})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.max_steps", "--set train.max_steps: write key=value, such as train.learning_rate=3e-4"),
        ("=5", "--set =5: write key=value, such as train.learning_rate=3e-4"),
        ("", "--set : write key=value, such as train.learning_rate=3e-4"),
        ("a b=5", "--set a b=5: 'a b' is no key; write table.key=value"),
        ("train..x=5", "--set train..x=5: 'train..x' is no key; write table.key=value"),
        ("[train]=5", "--set [train]=5: '[train]' is no key; write table.key=value"),
    ],
)
def test_a_set_that_is_no_assignment_is_an_error(desk, complaints, text, said):
    assert complaints(desk.profile, sets=[text]) == [said]


@pytest.mark.parametrize("text", ["#=1", "#=\n@@", "# note = 1", "[run]\n#=@@", "[run]\nname=1", "run.seed\n=1"])
def test_a_set_holds_one_key_and_no_more(desk, problems_of, text):
    (problem,) = problems_of(desk.profile, sets=[text])
    assert "is no key; write table.key=value" in problem.message


def test_a_mistake_in_a_set_is_reported_without_a_line(desk, complaints):
    assert complaints(desk.profile, sets=["train.max_steps=no", "run.nam=x"]) == [
        "run.nam: unknown key; did you mean 'name'?",
        "train.max_steps: expected a whole number, got 'no' (a string)",
    ]


def test_with_switches_a_plugin_on_with_its_defaults_and_keeps_what_the_profile_says(desk):
    desk.replace("[plugin.light_trainer]", "[plugin.light_trainer]\nshrink = 0.5")
    loaded = desk.load(switch_on=["light_score", "light_trainer"])
    configs = {plugin.source.name: plugin.config for plugin in loaded.active}
    assert "light_score" in configs
    assert configs["light_trainer"].shrink == 0.5


def test_without_switches_a_plugin_off(desk):
    loaded = desk.load(switch_off=["light_export"])
    assert "light_export" not in {plugin.source.name for plugin in loaded.active}


def test_with_and_without_name_what_is_not_there(desk, complaints):
    (unknown,) = complaints(desk.profile, switch_on=["light_scroe"])
    assert unknown == "plugin.light_scroe: no such plugin; did you mean 'light_score'?"
    (absent,) = complaints(desk.profile, switch_off=["light_score"])
    assert absent == "--without light_score: the profile has no [plugin.light_score]"


def test_without_beats_with(desk):
    loaded = desk.load(switch_on=["light_score"], switch_off=["light_score"])
    assert "light_score" not in {plugin.source.name for plugin in loaded.active}


# -- relative paths -------------------------------------------------------------------------------


def test_relative_paths_hang_on_the_file_that_they_are_written_in(desk, tmp_path, monkeypatch):
    boxes, elsewhere = tmp_path / "boxes", tmp_path / "elsewhere"
    boxes.mkdir()
    elsewhere.mkdir()
    (boxes / "box.toml").write_text('[run]\noutput_dir = "out"\n')
    desk.replace('profile = "cpu"', 'profile = "../boxes/box.toml"')
    desk.replace('output_dir = "runs"\n', "")
    monkeypatch.chdir(elsewhere)
    loaded = desk.load(sets=["plugin.light_diary.path=notes.jsonl"])
    assert loaded.profile.data.path == desk.folder / "rows.jsonl"
    assert loaded.profile.run.output_dir == boxes / "out"
    assert loaded.active[-1].config.path == elsewhere / "notes.jsonl"


def test_a_default_path_hangs_on_the_working_folder(desk, tmp_path, monkeypatch):
    desk.replace('output_dir = "runs"\n', "")
    monkeypatch.chdir(tmp_path)
    assert desk.load().profile.run.output_dir == tmp_path / "runs"


def test_absolute_and_home_paths_stay(desk, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert desk.load(sets=["data.path=/data/x.jsonl"]).profile.data.path == Path("/data/x.jsonl")
    assert desk.load(sets=["data.path=~/x.jsonl"]).profile.data.path == tmp_path / "x.jsonl"


@pytest.mark.parametrize(
    ("written", "meant"), [("org/model", "org/model"), ("./mine", "{}/mine"), ("here", "{}/here"), ("gpt2", "gpt2")]
)
def test_a_model_id_is_a_folder_if_it_looks_like_one_or_is_one(desk, written, meant):
    (desk.folder / "here").mkdir()
    desk.append(f'\n[model]\nid = "{written}"\n')
    assert desk.load().profile.model.id == meant.format(desk.folder.resolve())


@pytest.mark.parametrize(
    "line",
    [
        'data.path = "~nobody-of-that-name/x"',
        'model.id = "~nobody-of-that-name/x"',
        'model.id = "./a\\u0000b"',
        'model.id = "{long}"',
        'model.id = "/{long}"',
        'run.name = "{long}"',
        'run.name = "a\\u0000b"',
        'hardware.profile = "{long}.toml"',
        'hardware.profile = "a\\u0000b.toml"',
    ],
)
def test_a_path_that_the_system_cannot_take_is_a_problem_with_a_line(desk, problems_of, line):
    key = line.partition(" ")[0]
    path = desk.write("# a comment\n" + line.replace("{long}", "x" * 5000) + "\n")
    (problem,) = problems_of(path)
    assert (problem.key, problem.line) == (key, 2)


@pytest.mark.parametrize("name", ["a/b", "../up", "..", ".", "/abs", "a\\u0000", "line\\nbreak"])
def test_a_run_name_is_one_plain_folder_name(desk, problems_of, name):
    desk.replace('name = "light"', f'name = "{name}"')
    (problem,) = problems_of(desk.profile)
    assert (problem.key, problem.line) == ("run.name", 2)


# -- what a problem says --------------------------------------------------------------------------


def test_every_problem_is_reported_at_once_sorted_by_line(desk, complaints):
    path = desk.write(
        """\
[run]
sede = 1

[train]
learning_rate = -1
batch_size = 2.5
max_steps = "many"

[trian]
x = 1

[plugin.light_trainer]
shrnk = 0.5
shrink = nan

[plugin.light_dairy]
"""
    )
    assert complaints(path, sets=["data.validation=2"]) == [
        "data.validation: must be < 1, got 2.0 (a number)",
        "light.toml:2: run.sede: unknown key; did you mean 'seed'?",
        "light.toml:5: train.learning_rate: must be > 0, got -1.0 (a number)",
        "light.toml:6: train.batch_size: expected a whole number, got 2.5 (a number)",
        "light.toml:7: train.max_steps: expected a whole number, got 'many' (a string)",
        "light.toml:9: trian: unknown table; did you mean 'train'?",
        "light.toml:13: plugin.light_trainer.shrnk: unknown key; did you mean 'shrink'?",
        "light.toml:14: plugin.light_trainer.shrink: expected a finite number, got nan",
        "light.toml:16: plugin.light_dairy: no such plugin; did you mean 'light_diary'?",
    ]


def test_a_missing_required_key_is_reported_at_its_table(desk, complaints):
    desk.replace('path = "diary.jsonl"', "")
    line = desk.profile.read_text().split("\n").index("[plugin.light_diary]") + 1
    assert complaints(desk.profile) == [f"light.toml:{line}: plugin.light_diary.path: required, but not set"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('train.activation_checkpointing = "false"', "expected true or false, got 'false' (a string)"),
        ("train.activation_checkpointing = 0", "expected true or false, got 0 (a whole number)"),
        ("train.max_steps = 3.9", "expected a whole number, got 3.9 (a number)"),
        ("train.max_steps = 3.0", "expected a whole number, got 3.0 (a number)"),
        ("train.max_steps = true", "expected a whole number, got True (a boolean)"),
        ('train.max_steps = "3"', "expected a whole number, got '3' (a string)"),
        ("train.learning_rate = nan", "expected a finite number, got nan"),
        ("train.learning_rate = inf", "expected a finite number, got inf"),
        ("train.learning_rate = -1e-4", "must be > 0, got -0.0001 (a number)"),
        ("train.learning_rate = 0", "must be > 0, got 0.0 (a number)"),
        ('train.learning_rate = "2e-4"', "expected a number, got '2e-4' (a string)"),
        ("train.learning_rate = true", "expected a number, got True (a boolean)"),
        ("run.name = 5", "expected a string, got 5 (a whole number)"),
        ('data.path = ""', "is empty; name a file or folder, or leave it out"),
        ("data.path = 5", "expected a path in quotes, got 5 (a whole number)"),
        (
            'data.path = ["a", 5]',
            "expected a path in quotes, got ['a', 5] (a list) or expected a path in quotes, got 5 (a whole number)",
        ),
        ("run.seed = -1", "must be >= 0, got -1 (a whole number)"),
        ("run.seed = 4294967296", "must be <= 4294967295, got 4294967296 (a whole number)"),
        ("run.seed = 2026-11-20", "expected a whole number, got datetime.date(2026, 11, 20) (a date)"),
        ("run.seed = []", "expected a whole number, got [] (a list)"),
        ("run.seed = {}", "expected a whole number, got {} (a table)"),
        (
            'train.scheduler = "cosin"',
            "expected one of 'cosine', 'linear', 'constant', got 'cosin' (a string); did you mean 'cosine'?",
        ),
        ("train = 5", "expected a table, got 5 (a whole number)"),
        ("train = []", "expected a table, got [] (a list)"),
        ("plugin = 5", "expected tables such as [plugin.lora]"),
        ("plugin.light_trainer = 5", "expected a table, got 5 (a whole number)"),
        ("train.eval_steps = 5\ndata.validation = 0", "no rows are held out to evaluate on; "),
        ("train.micro_batch_size = 3", "3 does not divide train.batch_size = 8; choose a divisor"),
        ("train.warmup = 30\ntrain.max_steps = 20", "30 steps of warm-up exceed train.max_steps = 20; shorten it"),
    ],
)
def test_one_wrong_value_gives_one_sentence_with_line_and_key(desk, complaints, line, said):
    key = line.partition(" ")[0]
    path = desk.write(f'# a comment\n\nhardware.profile = "cpu"\n{line}\n')
    (text,) = complaints(path)
    assert text.startswith(f"light.toml:4: {key}: {said}")


@pytest.mark.parametrize("number", ["0x" + "f" * 6000, "9223372036854775808", "-9223372036854775809"])
@pytest.mark.parametrize("key", ["train", "train.max_steps", "train.learning_rate", "run.name", "train.batch_size"])
def test_a_number_beyond_64_bits_is_a_problem_like_any_other(desk, problems_of, key, number):
    (problem,) = problems_of(desk.write(f"{key} = {number}\n"))
    assert (problem.key, problem.line) == (key, 1)
    assert len(problem.message) < 200


def test_a_wrong_value_is_quoted_briefly(desk, complaints):
    path = desk.write(f'run.seed = "{"x" * 100_000}"\n')
    (text,) = complaints(path)
    assert len(text) < 150


@pytest.mark.parametrize(
    "key", ['"a\\nb"', '"a\\u001b[2Jb"', '"\\u0085"', '"\\u2028"']
)  # what a terminal or a log would take for an instruction
def test_a_problem_is_one_line_whatever_the_key_holds(desk, complaints, key):
    path = desk.write(f"train.{key} = 1\n")
    (text,) = complaints(path)
    assert len(text.splitlines()) == 1
    assert text.isprintable()


def test_a_broken_plugin_is_reported_beside_the_problems_of_the_profile(desk, complaints):
    desk.installation.plugin("cracked", "raise ImportError('no such driver')")
    desk.append("\n[plugin.cracked]\n")
    with pytest.raises(PluginError, match=r"plugin cracked \(dist-cracked 1.0\) .*no such driver"):
        desk.load()
    texts = complaints(desk.profile, sets=["run.seed=-1"])
    assert [text.partition(":")[0] for text in texts] == [
        "plugin cracked (dist-cracked 1.0) cannot be imported from module_of_cracked",
        "run.seed",
    ]


# -- files that are no profile --------------------------------------------------------------------


def test_no_such_profile(tmp_path):
    with pytest.raises(ProfileError, match=f"no such profile: .*missing.toml .looked in {tmp_path}"):
        load_profile(tmp_path / "missing.toml")


def test_a_folder_is_no_profile(tmp_path):
    with pytest.raises(ProfileError, match=r"is no file; name a profile such as profile[.]toml"):
        load_profile(tmp_path)


def test_a_fifo_is_no_profile_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo.toml")
    with pytest.raises(ProfileError, match="is no file"):
        load_profile(tmp_path / "fifo.toml")


def test_a_path_of_a_profile_that_the_system_cannot_take(tmp_path):
    with pytest.raises(ProfileError, match="cannot be read: File name too long"):
        load_profile(tmp_path / ("x" * 5000))
    with pytest.raises(ProfileError, match="no such profile"):
        load_profile(tmp_path / "null\0byte")


def test_a_link_in_a_circle_is_no_profile(tmp_path):
    link = tmp_path / "circle.toml"
    link.symlink_to(link)
    with pytest.raises(ProfileError):
        load_profile(link)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_profile_without_permission(tmp_path):
    path = tmp_path / "secret.toml"
    path.write_text("")
    path.chmod(0)
    with pytest.raises(ProfileError, match="cannot be read: Permission denied"):
        load_profile(path)


def test_a_profile_is_utf_8(desk, complaints):
    (desk.folder / "bad.toml").write_bytes(b'[run]\nname = "ok"\n# caf\xe9\n')
    assert complaints(desk.folder / "bad.toml") == ["bad.toml:3: not UTF-8; save the file as UTF-8"]
    (desk.folder / "wide.toml").write_bytes("[run]\n".encode("utf-16"))
    assert complaints(desk.folder / "wide.toml") == ["wide.toml:1: not UTF-8; save the file as UTF-8"]


def test_a_byte_order_mark_is_named(desk, complaints):
    (desk.folder / "bom.toml").write_bytes(b"\xef\xbb\xbf[run]\nseed = 1\n")
    (text,) = complaints(desk.folder / "bom.toml")
    assert text.startswith("bom.toml:1: ")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[run\n", 1, "not valid TOML: expected ']' at the end of a table declaration"),
        ("[run]\nseed = \n", 2, "not valid TOML: invalid value"),
        ("[run]\nseed = 1\nseed = 2\n", 3, "not valid TOML: cannot overwrite a value"),
        ("[run]\n[run]\n", 2, "not valid TOML: cannot declare ('run',) twice"),
        ('[run]\nname = "open\n', 2, "not valid TOML: illegal character '\\n'"),
        ("a = 1979-99-99\n", 1, "not valid TOML: "),
        ("a = " + "9" * 5000 + "\n", None, "not valid TOML: "),
        ('name = """open', None, "not valid TOML: unterminated string at the end of the file"),
    ],
)
def test_a_syntax_error_is_one_problem_with_its_line(desk, problems_of, text, line, said):
    path = desk.write(text)
    (problem,) = problems_of(path)
    assert problem.message.startswith(said)
    assert (problem.file, problem.line) == (path, line)


def test_what_a_mistake_costs(desk, problems_of):
    with pytest.raises(ProfileError) as caught:
        load_profile(desk.write("[run\n"))
    assert caught.value.exit_code == ExitCode.PROFILE == 2
