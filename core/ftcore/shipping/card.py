"""The model card: what was trained, from what, on what, how well, what its artifacts are worth, and how to run them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.files import replace_text
from ftcore.manifest import FILE as MANIFEST
from ftcore.manifest import Manifest, new_manifest, read_manifest
from ftcore.runs import saved_in
from ftcore.shipping.front_matter import Subject, front_matter
from ftcore.shipping.wording import cell, clean, name_in, number, plain, without_places
from ftcore.values import Artifact, Run, Verdict

__all__ = ["FILE", "write_card"]

FILE = "README.md"
LEFT_OUT = {
    *("log_steps", "save_steps", "save_limit", "micro_batch_size", "best_metric", "load_best"),
    *("eval_steps", "eval_samples", "eval_batch_size"),
}
ADAPTER = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora", "modules_to_save", "bias")
RUN = "run"


def write_card(folder: Path, run: Run, artifacts: Sequence[Artifact] = ()) -> None:
    """Write `README.md` into `folder`, from the run's manifest and what the proofs of the artifacts say.

    No path of this machine, and no row of the data, is in it. An artifact's `details["run"]` says how to run it.
    """
    saved = saved_in(run.folder) or run.folder
    subject = Subject(folder=folder, home=run.folder, saved=saved, manifest=_manifest(run), artifacts=tuple(artifacts))
    replace_text(folder / FILE, "\n".join([*front_matter(subject), "", *_body(subject), ""]))


def _manifest(run: Run) -> Manifest:
    if (run.folder / MANIFEST).is_file():
        return read_manifest(run.folder)
    return new_manifest(run.name, attrs.asdict(run.profile), [])  # a run that core does not drive, as in tests


def _body(subject: Subject) -> Iterator[str]:
    yield f"# {plain(subject.manifest.name)}"
    yield ""
    yield _origin(subject)
    yield from _failures(subject)
    for title, lines in (
        ("Files", _files(subject)),
        ("How to run", _commands(subject)),
        ("Images", _images(subject)),
        ("Chat template", _chat_template(subject.manifest)),
        ("Results", _results(subject.manifest)),
        ("Data", _data(subject)),
        ("Training", _rows(_hyper_parameters(subject))),
        ("Versions", _rows(_versions(subject.manifest))),
        ("Licence", _terms(subject)),
    ):
        text = "\n".join(lines).strip("\n")
        if text:
            yield from ("", f"## {title}", "", text)


def _origin(subject: Subject) -> str:
    base = subject.hub_base
    if base:
        revision = subject.manifest.model.get("revision", "")
        pinned = f", revision `{plain(revision)}`" if revision else ""
        source = f"[{plain(base)}](https://huggingface.co/{plain(base)}){pinned}"
    else:
        source = f"a local model, `{plain(subject.base)}`" if subject.base else "a local model"
    return (
        f"Fine-tuned from {source}, by [ftcore](https://pypi.org/project/ftcore/) on {subject.manifest.created[:10]}."
    )


def _failures(subject: Subject) -> Iterator[str]:
    for artifact in subject.artifacts:
        if artifact.proof.verdict is Verdict.FAILED:
            name = name_in(subject, artifact)
            yield from ("", f"**`{name}` failed: do not ship.** It does not answer like the model that was trained.")


def _files(subject: Subject) -> Iterator[str]:
    if not subject.artifacts:
        return
    yield "An artifact is proved if, loaded in its own runtime, it answers like the model as it was trained."
    yield ""
    yield "| artifact | what it is | proof | figures |"
    yield "|---|---|---|---|"
    for artifact in subject.artifacts:
        proof = artifact.proof
        figures = "; ".join(filter(None, [_figures(proof.figures), clean(subject, proof.note)]))
        verdict = "**failed: do not ship**" if proof.verdict is Verdict.FAILED else str(proof.verdict)
        yield f"| `{cell(name_in(subject, artifact))}` | {_details(subject, artifact)} | {verdict} | {figures} |"


def _details(subject: Subject, artifact: Artifact) -> str:
    details = {name: value for name, value in artifact.details.items() if name != RUN and value}
    told = [f"{name.replace('_', ' ')} {value}" for name, value in details.items()]
    return "; ".join([artifact.kind, *(clean(subject, text) for text in told)])


def _commands(subject: Subject) -> Iterator[str]:
    here = [artifact for artifact in subject.artifacts if artifact.path.is_relative_to(subject.folder)]
    if subject.kind == "adapter" and not here:
        yield from _load_adapter(subject)
    for artifact in here:
        text = artifact.details.get(RUN, "").strip("\n")
        if text and artifact.proof.verdict is not Verdict.FAILED:
            lines = [without_places(subject, line).replace("```", "") for line in text.splitlines()]
            yield from (f"`{name_in(subject, artifact)}`:", "", "```", *lines, "```", "")


def _load_adapter(subject: Subject) -> Iterator[str]:
    images = (subject.folder / "processor_config.json").is_file()
    kind = "AutoModelForImageTextToText" if images else "AutoModelForCausalLM"
    yield "```python"
    yield "from peft import PeftModel"
    yield f"from transformers import {kind}"
    yield ""
    yield f"base = {kind}.from_pretrained({subject.base!r})"
    yield f"model = PeftModel.from_pretrained(base, {subject.folder.name!r})"
    yield "```"


def _images(subject: Subject) -> Iterator[str]:
    """What a saved processor does not keep: the settings of Pan & Scan, which a call has to bring along."""
    for table in _tables(subject.manifest):
        if table.get("pan_and_scan") is True:
            yield "The model was trained on images with Pan & Scan. A saved processor does not keep its settings,"
            yield "and without them the model sees less than it was trained on; give them with each call:"
            call = f"processor(text=text, images=images, images_kwargs={_pan_and_scan(table)})"
            yield from ("", "```python", call, "```")


def _pan_and_scan(table: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "max_crops": "pan_and_scan_max_num_crops",
        "min_crop_size": "pan_and_scan_min_crop_size",
        "min_ratio": "pan_and_scan_min_ratio_to_activate",
    }
    return {"do_pan_and_scan": True, **{new: table[old] for old, new in names.items() if old in table}}


def _chat_template(manifest: Manifest) -> Iterator[str]:
    """What a saved template does not keep: the variables that prompts were made with."""
    for table in _tables(manifest):
        variables = table.get("chat_template_kwargs")
        if isinstance(variables, Mapping) and variables:
            yield "The model was trained with variables of its chat template; give them with each call:"
            call = f"tokenizer.apply_chat_template(messages, add_generation_prompt=True, **{dict(variables)})"
            yield from ("", "```python", call, "```")


def _results(manifest: Manifest) -> Iterator[str]:
    before, after = manifest.scores["before"], manifest.scores["after"]
    judged = {"loss, nats a trained token": (manifest.loss["before"], manifest.loss["after"])}
    names = [name for name in {**before, **after} if "/" not in name]  # not the cells of a table
    judged |= {name: (before.get(name), after.get(name)) for name in names}
    known = {name: values for name, values in judged.items() if values != (None, None)}
    if known:
        yield "On rows that were held out of training:"
        yield ""
        yield "| | before | after |"
        yield "|---|---|---|"
        for name, values in known.items():
            yield f"| {cell(name)} | {' | '.join(number(value) for value in values)} |"


def _data(subject: Subject) -> Iterator[str]:
    manifest, ledger = subject.manifest, subject.manifest.data.get("ledger", {})
    if subject.data_set:
        name = plain(subject.data_set)
        yield f"[{name}](https://huggingface.co/datasets/{name})"
        yield ""
    if ledger:
        rows = f"{ledger['rows']} rows: {ledger['trained']} trained on, {ledger['held_out']} held out"
        dropped = "".join(f", {count} dropped ({clean(subject, why)})" for why, count in ledger["dropped"].items())
        yield f"{rows}{dropped}. None of them is shown here."
    if manifest.data.get("fingerprint"):
        yield ""
        yield f"Fingerprint `{manifest.data['fingerprint'][:16]}`."


def _hyper_parameters(subject: Subject) -> Mapping[str, Any]:
    settings, adapter = subject.manifest.settings, subject.adapter
    train = {name: value for name, value in (settings.get("train") or {}).items() if value is not None}
    left_out = LEFT_OUT | ({"epochs"} if train.get("max_steps") else set())
    return {
        **{name: value for name, value in (settings.get("run") or {}).items() if name == "seed"},
        **{name: value for name, value in train.items() if name not in left_out},
        **({"steps": subject.manifest.total_steps} if subject.manifest.total_steps else {}),
        **_best(subject.manifest),
        **{name: _listed(adapter[name]) for name in ADAPTER if adapter.get(name) is not None},
    }


def _best(manifest: Manifest) -> Mapping[str, Any]:
    """Where the run did not end with the weights of its last step."""
    best = manifest.best
    if not best or manifest.saved_at in (0, manifest.step) or manifest.saved_at != best.get("step"):
        return {}
    return {"step of these weights": f"{best['step']}, the best by {best['metric']}"}


def _versions(manifest: Manifest) -> Mapping[str, Any]:
    python = manifest.environment.get("python")
    return {**({"python": python} if python else {}), **manifest.versions}


def _terms(subject: Subject) -> Iterator[str]:
    base = plain(subject.hub_base)
    see = f", see [{base}](https://huggingface.co/{base})," if base else ""
    named = f"is {plain(subject.license)}" if subject.license else "is unknown"
    yield f"The base model's licence {named}; its terms{see} and those of the data apply."


def _rows(values: Mapping[str, Any]) -> Iterator[str]:
    if values:
        yield "| | |"
        yield "|---|---|"
        yield from (f"| {cell(name)} | {cell(value)} |" for name, value in values.items())


def _listed(value: Any) -> Any:
    # PEFT writes all-linear out as the full name of every layer.
    return ", ".join(sorted({str(name).rpartition(".")[2] for name in value})) if isinstance(value, list) else value


def _tables(manifest: Manifest) -> Iterator[Mapping[str, Any]]:
    plugins = manifest.settings.get("plugin") or {}
    yield from (table for table in plugins.values() if isinstance(table, Mapping))


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{cell(name)} {number(value)}" for name, value in figures.items())
