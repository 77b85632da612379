"""The reference says what the tuned model answers, asks it enough, and leaves it as it was."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image

from ftcore.api import MASKED, Example, Loaded, Row, Rows, Run, RunError
from ftcore_plugins.common.answering import Answering
from ftcore_plugins.common.proof.comparison import compare
from ftcore_plugins.common.proof.reference import Reference, read_reference
from ftcore_plugins.reference.positions import LATE, LONGEST, Asked, as_asked, asked_at, end_to_end
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel
from proof_kit import write_reference
from tiny_kit import Tiny, make_run, prepare


@attrs.frozen
class Tuned:
    run: Run
    loaded: Loaded


@pytest.fixture(scope="module")
def tuned(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    run = tiny.run(tmp_path_factory.mktemp("run"))
    return Tuned(run, tiny.load(run))


@pytest.fixture
def write(tiny: Tiny, tuned: Tuned, tmp_path: Path) -> Callable[..., Reference]:
    """The reference that is written, and read again."""

    def written(loaded: Loaded = tuned.loaded, data: Any = tiny.data, run: Run = tuned.run, **options: Any) -> Any:
        folder = tmp_path / f"reference-{len(list(tmp_path.iterdir()))}"
        return read_reference(write_reference(folder, run, loaded, data, **options))

    return written


def with_template(tuned: Tuned, template: str | None) -> Loaded:
    import copy

    tokenizer = copy.deepcopy(tuned.loaded.processor)
    tokenizer.chat_template = template
    return attrs.evolve(tuned.loaded, processor=tokenizer)


# What is asked


def test_it_has_texts_chats_rows_and_continuations(tiny: Tiny, write: Callable[..., Reference]) -> None:
    found = write()
    assert (found.vocabulary, found.exact, found.day, found.unasked) == (len(tiny.tokenizer), True, "", ())
    texts = "".join(probe.text for probe in found.texts)
    assert all(
        part in texts for part in ("def ", "\t", "\r\n", "  ", "你", "🙂", "12345", *tiny.tokenizer.all_special_tokens)
    )
    for probe in found.texts:
        assert list(probe.ids) == tiny.tokenizer(probe.text, add_special_tokens=False)["input_ids"]
    assert [[message["role"] for message in chat.messages] for chat in found.chats] == [
        ["user"],
        ["user", "assistant", "user"],
        ["system", "user"],
        ["system", "user", "assistant", "user"],
    ]
    assert found.chats[0].ids[-1] == tiny.tokenizer("\n", add_special_tokens=False)["input_ids"][-1]
    assert sum(len(passage.positions) for passage in found.passages) == 48
    assert max(len(passage.ids) for passage in found.passages) == 512
    assert len(found.continuations) == 4


def test_answers_are_those_of_the_plain_model(tuned: Tuned, write: Callable[..., Reference]) -> None:
    found, model = write(), tuned.loaded.model.eval()
    for passage in found.passages:
        with torch.no_grad():
            logits = model(torch.tensor([passage.ids])).logits[0, list(passage.positions)]
        assert np.allclose(logits.log_softmax(-1).numpy(), passage.log_probabilities, atol=1e-5)
    for wanted in found.continuations:
        ids = list(wanted.prompt)
        for token, ahead in zip(wanted.ids, wanted.margins, strict=True):  # without a cache
            with torch.no_grad():
                best, second = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).topk(2).values.tolist()
                assert model(torch.tensor([ids])).logits[0, -1].argmax() == token
            assert ahead == pytest.approx(best - second, abs=1e-4)
            ids.append(token)


def test_trained_tokens_go_first(tiny: Tiny, write: Callable[..., Reference]) -> None:
    found = write(positions=LATE - 1)
    rows = {tuple(example.input_ids): example.labels for example in tiny.data.validation}
    for passage in found.passages:
        labels = next(labels for ids, labels in rows.items() if ids[: len(passage.ids)] == passage.ids)
        assert all(labels[position + 1] != MASKED for position in passage.positions)


def test_options_say_how_much_is_asked(write: Callable[..., Reference]) -> None:
    found = write(positions=13, greedy_tokens=3)
    assert sum(len(passage.positions) for passage in found.passages) == 13
    assert {len(wanted.ids) for wanted in found.continuations} == {3}
    assert write(greedy_tokens=0).continuations == ()


def test_without_held_out_rows_those_of_the_training_are_asked(tiny: Tiny, write: Callable[..., Reference]) -> None:
    found = write(data=attrs.evolve(tiny.data, validation=[]))
    first = tuple(tiny.data.train[0].input_ids)
    assert found.passages[0].ids == first[: len(found.passages[0].ids)]


def test_without_rows_the_probes_are_asked(tuned: Tuned, write: Callable[..., Reference]) -> None:
    found = write(data=None)
    assert sum(len(passage.positions) for passage in found.passages) == 48
    assert found.passages[0].ids == found.chats[0].ids[: len(found.passages[0].ids)]
    bare = write(loaded=with_template(tuned, None), data=None)
    assert bare.chats == ()
    assert sum(len(passage.positions) for passage in bare.passages) == 48
    assert bare.continuations[0].prompt == bare.passages[0].ids


def test_a_template_without_a_system_prompt_is_asked_the_rest(tuned: Tuned, write: Callable[..., Reference]) -> None:
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none here') }}{% endif %}{{ messages }}"
    found = write(loaded=with_template(tuned, template))
    assert [len(chat.messages) for chat in found.chats] == [1, 3]


def test_a_template_that_writes_the_date_is_known(tuned: Tuned, write: Callable[..., Reference]) -> None:
    found = write(loaded=with_template(tuned, "{{ strftime_now('%d %b %Y') }} {{ messages[0]['content'] }}"))
    assert found.day == date.today().isoformat()


def test_a_continuation_ends_with_its_stop_token(tiny: Tiny, tmp_path: Path, write: Callable[..., Reference]) -> None:
    run = tiny.run(tmp_path / "run")
    loaded = tiny.load(run)
    with torch.no_grad():  # the final norm's output does not matter: all logits but one are zero
        loaded.model.lm_head.weight.zero_()
        loaded.model.lm_head.weight[tiny.tokenizer.eos_token_id] = 1.0
        loaded.model.model.norm.register_forward_hook(lambda *_: torch.ones_like(_[-1]))
    found = write(loaded=loaded)
    assert found.stops == (tiny.tokenizer.eos_token_id,)
    assert {wanted.ids for wanted in found.continuations} == {(tiny.tokenizer.eos_token_id,)}


@pytest.mark.parametrize(
    ("tables", "dtype"), [({"train": {"precision": "bf16"}}, torch.float32), ({}, torch.bfloat16), ({}, torch.float16)]
)
def test_rounded_answers_are_not_called_exact(
    tiny: Tiny, tmp_path: Path, write: Callable[..., Reference], tables: Any, dtype: torch.dtype
) -> None:
    run = tiny.run(tmp_path / "run", **tables)
    loaded = tiny.load(run)
    loaded.model.to(dtype)
    assert not write(loaded=loaded, run=run).exact


def test_nothing_is_longer_than_what_the_model_reads(
    tiny: Tiny, tmp_path: Path, write: Callable[..., Reference]
) -> None:
    run = tiny.run(tmp_path / "run")
    loaded = tiny.load(run)
    loaded.model.config.max_position_embeddings = 60
    found = write(loaded=loaded)
    assert max(len(passage.ids) for passage in found.passages) == 59
    assert 0 < max(len(wanted.prompt) + len(wanted.ids) for wanted in found.continuations) <= 59


# What becomes of the model


def test_the_model_is_left_as_it_was(tuned: Tuned, write: Callable[..., Reference]) -> None:
    model = tuned.loaded.model.train()
    model.model.layers[0].eval()
    before, state = [module.training for module in model.modules()], torch.get_rng_state()
    write()
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)
    assert {parameter.grad for parameter in model.parameters()} == {None}


def test_only_the_wanted_logits_are_calculated(
    tuned: Tuned, write: Callable[..., Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[int] = []
    hook = tuned.loaded.model.lm_head.register_forward_hook(lambda _, __, made: shapes.append(made.shape[1]))
    found = write(greedy_tokens=0)
    assert sum(shapes) == 2 * 48  # once more with noise
    monkeypatch.setattr(Answering, "_selects", lambda _: False)  # as a model that cannot choose
    shapes.clear()
    whole = write(greedy_tokens=0)
    hook.remove()
    assert sum(shapes) > 512
    for first, second in zip(found.passages, whole.passages, strict=True):
        assert np.allclose(first.log_probabilities, second.log_probabilities, atol=1e-5)


def test_a_model_of_another_library_is_left_to_its_plugin(tuned: Tuned, tmp_path: Path) -> None:
    folder = write_reference(tmp_path / "reference", tuned.run, attrs.evolve(tuned.loaded, model=object()), None)
    assert list(folder.iterdir()) == []


def test_a_model_that_answers_no_numbers_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path / "run")
    loaded = tiny.load(run)
    loaded.model.lm_head.weight.data[3, 3] = float("nan")
    with pytest.raises(RunError, match=r"the tuned model answers with what is no number \(NaN\); train again"):
        write_reference(tmp_path / "reference", run, loaded, tiny.data)


# Positions


def test_a_long_row_keeps_its_first_token_and_what_is_trained() -> None:
    ids = list(range(5000))
    labels = [MASKED] * 4000 + ids[4000:]
    found = as_asked(Example(input_ids=ids, labels=labels, replies=(), origin=""), frozenset({4100}))
    assert len(found.ids) == LONGEST
    assert found.ids[0] == 0
    assert 4100 not in found.ids
    assert [found.ids[place + 1] for place in found.trained][:100] == ids[4000:4100]


def test_positions_are_shared_out_as_rows_allow() -> None:
    rows = [Asked(ids=(1, 2, 3), trained=(1,)), Asked(ids=tuple(range(30)), trained=tuple(range(20, 29)))]
    found = list(asked_at(rows, end_to_end(rows, 40), 18))
    assert sum(len(positions) for _, positions in found) == 18
    assert found[0][1] == (0, 1, 2)
    assert set(range(20, 29)) <= set(found[1][1])
    assert len(found[2][0].ids) == 40
    assert min(found[2][1]) >= 20
    few = list(asked_at(rows[:1], end_to_end(rows[:1], 512), 48))
    assert [len(positions) for _, positions in few] == [3, 8]


# A model that sees


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Loaded, Any]:
    rows = [Row(values={"text": "what is in the picture, a red square?"}, origin="r:1")]
    run = make_run(tmp_path_factory.mktemp("seeing"))
    plugin = TinyModel(TinyOptions(architecture="gemma3", image_size=56, image_tokens=4))
    processor = plugin.load_processor(run, Rows(train=rows, validation=[], fingerprint=""))
    loaded = plugin.load_model(run, processor, None)
    image = loaded.model.config.image_token_id
    ids = [2, 5, 7, *[image] * 4, 8, 70, 71, 6]
    example = Example(input_ids=ids, labels=[MASKED] * 8 + ids[8:], replies=(), origin="r:1")
    data = prepare(processor.tokenizer, Rows(train=[], validation=[], fingerprint=""))
    return run, loaded, attrs.evolve(data, train=[example])


def test_a_model_that_sees_is_shown_a_square(seeing: Any, tmp_path: Path) -> None:
    run, loaded, data = seeing
    folder = write_reference(tmp_path / "reference", run, loaded, data)
    found = read_reference(folder)
    [probe] = found.images
    assert (probe.placeholder, probe.prompt.count(probe.placeholder)) == ("<start_of_image>", 1)
    with Image.open(folder / probe.image) as image:
        assert (image.size, image.mode) == ((56, 56), "RGB")
        assert len(image.getcolors(56 * 56)) > 100
    assert found.passages[0].ids == (2, 5, 7, 8, 70, 71, 6)[: len(found.passages[0].ids)]
    assert not any(loaded.model.config.image_token_id in passage.ids for passage in found.passages)
    again = compare(found, folder, Answering(model=loaded.model, processor=loaded.processor, stops=found.stops))
    assert (again.figures["kl_max"], again.figures["image_kl"], again.faults) == (0.0, 0.0, [])
    Image.new("RGB", (56, 56), "white").save(folder / probe.image)
    other = compare(found, folder, Answering(model=loaded.model, processor=loaded.processor, stops=found.stops))
    assert other.figures["image_kl"] > 1e-2


def test_the_square_is_drawn_the_same_each_time(seeing: Any, tmp_path: Path) -> None:
    run, loaded, _ = seeing
    pictures = {write_reference(tmp_path / name, run, loaded, None) / "square.png" for name in ("a", "b")}
    assert len({picture.read_bytes() for picture in pictures}) == 1


def test_a_processor_without_a_place_for_images_is_named(seeing: Any, tmp_path: Path) -> None:
    run, loaded, _ = seeing
    blind = attrs.evolve(loaded, processor=loaded.processor.tokenizer)
    found = read_reference(write_reference(tmp_path / "reference", run, blind, None))
    assert (found.images, found.unasked) == ((), ("images",))
