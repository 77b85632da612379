"""`ftcore tune` with a real model: its memory and speed are measured, and a limit is kept."""

from __future__ import annotations

import json

import pytest

from ftcore.preflight import load_profile


@pytest.mark.slow
def test_the_tiny_model_is_tuned(ftcore_process, repository, tmp_path):
    pytest.importorskip("trl")
    text = (repository / "profiles" / "quickstart.toml").read_text("utf-8").replace("limit = 1200", "limit = 60")
    profile = tmp_path / "quick.toml"
    profile.write_text(text)
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "FTCORE_HARDWARE_PROFILES": str(tmp_path / "own")}
    tune = ["tune", profile, "--json", "--steps", "2", "--most", "2"]
    done = ftcore_process(*tune, env=env, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["micro_batch_size"] for one in found["tries"]] == [1, 2]
    assert all(one["fits"] and one["tokens_per_second"] > 0 for one in found["tries"])
    assert 0.2 < found["tries"][0]["memory"] < 2
    loaded = load_profile(profile, sets=[f"hardware.profile={found['output']}"])
    assert loaded.profile.train.micro_batch_size == found["fastest"]
    assert not (tmp_path / "runs").exists()

    limit = str(found["tries"][0]["memory"] * 0.7)
    done = ftcore_process(*tune, "--memory", limit, env=env, cwd=tmp_path, timeout=120)
    assert done.returncode == 1
    assert "not even one row fits (over 0." in done.stderr
