"""The main job on a small quickstart: what it leaves behind is what plain libraries load."""

from __future__ import annotations

from pathlib import Path

import pytest

from forked import QUICKSTART, SMALL, Child, losses, only_run, read

Finished = tuple[Path, Child]

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle")


def test_run_folder_is_as_designed(finished: Finished) -> None:
    run, _ = finished
    for name in ("profile.toml", "manifest.json", "run.log", "metrics.jsonl", "report.json"):
        assert (run / name).is_file(), name
    for name in ("checkpoints/step-000012", "adapter", "exports/merged", "tensorboard"):
        assert (run / name).is_dir(), name


def test_report_says_how_it_went(finished: Finished) -> None:
    report = read(finished[0] / "report.json")
    assert report["outcome"] == "finished"
    assert report["step"] == report["total_steps"] == 12
    assert 0 < report["loss"]["after"] < report["loss"]["before"]
    (merged,) = report["exports"]
    assert (merged["kind"], merged["proof"]["verdict"]) == ("merged", "proved")
    assert Path(merged["path"]) == finished[0] / "exports" / "merged"
    ledger = report["ledger"]
    assert ledger["rows"] == 80 == ledger["trained"] + ledger["held_out"] + sum(ledger["dropped"].values())


def test_every_step_is_logged_once(finished: Finished) -> None:
    assert sorted(losses(finished[0])) == list(range(1, 13))


def test_summary_shows_losses_sample_and_places(finished: Finished) -> None:
    run, child = finished
    for words in ("held-out loss", "before", "after", "sample from", str(run), "merged", "proved", "adapter"):
        assert words in child.text, words


def test_progress_is_shown(finished: Finished) -> None:
    text = finished[1].text
    for words in ("[1/7] reading rows", "[7/7] exporting", "step 1/12", "loss ", "lr ", "tok/s", " left"):
        assert words in text, words


def test_manifest_records_what_ran(finished: Finished) -> None:
    manifest = read(finished[0] / "manifest.json")
    assert {"torch", "transformers", "trl", "peft", "ftcore"} <= set(manifest["versions"])
    assert manifest["settings"]["train"]["max_steps"] == 12
    assert len(manifest["data"]["fingerprint"]) == len(manifest["model"]["fingerprint"]) == 64
    assert {"name": "lora", "distribution": "ftcore", "version": manifest["versions"]["ftcore"]} in manifest["plugins"]


def test_plain_peft_and_transformers_load_what_was_shipped(finished: Finished) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = finished[0]
    base = AutoModelForCausalLM.from_pretrained(run / "base", dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, run / "adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(run / "exports" / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "exports" / "merged")
    chat = [{"role": "user", "content": "Write the Python function `f()`."}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    with torch.no_grad():
        assert torch.allclose(tuned(ids).logits, merged(ids).logits, atol=1e-3)
        untuned = AutoModelForCausalLM.from_pretrained(run / "base", dtype=torch.float32)
        assert not torch.allclose(untuned(ids).logits, merged(ids).logits, atol=1e-3)
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") in _as_list(merged.generation_config.eos_token_id)
    assert (run / "exports" / "merged" / "README.md").read_text().startswith("---\n")


def test_tensorboard_reads_its_events(finished: Finished) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished[0] / "tensorboard")).Reload()
    steps = {scalar.step: scalar.value for scalar in events.Scalars("train/loss")}
    assert steps == pytest.approx(losses(finished[0]), rel=1e-6)
    assert "train/learning_rate" in events.Tags()["scalars"]


def test_nothing_is_pickled(finished: Finished) -> None:
    assert [path for path in finished[0].rglob("*") if path.suffix in PICKLES] == []


def test_finished_run_is_not_resumed(finished: Finished, start) -> None:
    child = start("run", "--resume", finished[0])
    assert child.wait() == 1
    assert "has finished" in child.text


def test_full_fine_tuning_without_an_adapter(start, tmp_path: Path) -> None:
    child = start("run", QUICKSTART, f"--set=run.output_dir={tmp_path}", *SMALL[:-1], "--without=lora", "--trace-hooks")
    assert child.wait() == 0, child.text
    run = only_run(tmp_path)
    assert (run / "model" / "model.safetensors").is_file()
    assert not (run / "adapter").exists()
    assert read(run / "report.json")["exports"][0]["proof"]["verdict"] == "proved"
    for hook in ("load_rows", "load_model", "format_dataset", "make_trainer", "on_step", "export", "verify"):
        assert hook in child.text, hook


def test_a_seed_decides_everything(finished: Finished, start, tmp_path: Path) -> None:
    child = start("run", QUICKSTART, f"--set=run.output_dir={tmp_path}", *SMALL, "--quiet")
    assert child.wait() == 0, child.text
    assert losses(only_run(tmp_path)) == losses(finished[0])
    assert child.text == ""


def _as_list(value: int | list[int]) -> list[int]:
    return value if isinstance(value, list) else [value]
