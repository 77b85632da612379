"""Record missions of MiniGrid's BabyAI levels, as its expert solves them, into rows for a vision-language model.

python examples/minigrid/record.py --output data/minigrid --sequences 671 --seed 7

README.md beside this file says what a row holds. Levels and expert: Chevalier-Boisvert et al., "BabyAI: A Platform
to Study the Sample Efficiency of Grounded Language Learning", https://arxiv.org/abs/1810.08272
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import hashlib
import io
import itertools
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

# One room and one target each: what the agent saw decides the action, and a small model learns it from these rows.
LEVELS = ("BabyAI-GoToRedBallNoDists-v0", "BabyAI-OpenRedDoor-v0")

ROWS, FRAMES = "minigrid.jsonl", "frames"
WINDOW = 4  # frames of a row: a grid of two by two
TILE = 8  # pixels; the agent sees seven by seven tiles
EPISODE_SEEDS = 1_000_000  # how far apart the seeds of two recordings start
SHARE = 0.45  # of the rows, at most, are of one action
DRY = 200  # missions in a row without a new row, after which the levels are taken to have no more to show
FAILURES_IN_A_ROW = 50  # after which a level is taken for one that the expert cannot solve


class UsageError(Exception):
    """The command cannot do what it was asked; the text is one sentence for the user."""


class ExpertError(Exception):
    """The expert has no more to show in the levels; the text is one sentence for the user."""


@attrs.frozen(kw_only=True)
class Episode:
    """A mission that the expert solved: before action `buttons[n]` the agent saw `frames[n]`.

    A frame is an array of height x width x RGB, 8 bits each. It is the agent's own view, in which it always looks
    up and stands in the middle of the lowest row; on a map, left and right would also depend on its heading.
    """

    number: int
    level: str
    seed: int
    mission: str
    frames: Sequence[Any]
    buttons: Sequence[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Record, and return the exit code: 0 done, 1 failed, 2 used wrongly."""
    asked = _parser().parse_args(arguments)
    try:
        _require_minigrid()
        _check_levels(asked.levels)
        if asked.sequences < 1 or asked.seed < 0:
            raise UsageError("--sequences is at least 1, and --seed at least 0")
        target = asked.output.resolve()
        _check_target(target, asked.force)
        said = record(target, asked.levels, seed=asked.seed, sequences=asked.sequences)
    except (UsageError, ExpertError, OSError) as error:
        sys.stderr.write(f"record.py: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
    sys.stdout.write(f"{asked.output}: {said}\n")
    return 0


def record(target: Path, levels: Sequence[str], *, seed: int, sequences: int) -> str:
    """Write exactly `sequences` rows and their frames to `target`, all or nothing, and return what was recorded.

    Raises `ExpertError` for a level that the expert does not solve, and for levels with too little to see.
    """
    staging = target.with_name(f".{target.name}.new")  # one name, so that a killed recording is soon replaced
    shutil.rmtree(staging, ignore_errors=True)
    (staging / FRAMES).mkdir(parents=True)
    try:
        chosen = itertools.islice(_choose(_episodes(levels, seed)), sequences)
        rows = [_write_frames(staging, episode, step) for episode, step in chosen]
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (staging / ROWS).write_text(lines, encoding="utf-8", newline="\n")
        _put_in_place(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return _summary(rows)


def play(number: int, level: str, seed: int) -> Episode | None:
    """Let the expert solve one mission; None if it does not."""
    import gymnasium
    from minigrid.utils.baby_ai_bot import BabyAIBot

    world = gymnasium.make(level, disable_env_checker=True).unwrapped
    with contextlib.redirect_stdout(io.StringIO()):  # the level prints each layout that it rejects
        world.reset(seed=seed)
    frames, buttons = [], []
    action, reward, ended = None, 0.0, False
    try:
        expert = BabyAIBot(world)
        while not ended:
            action = expert.replan(action)
            frames.append(world.get_pov_render(TILE))
            buttons.append(action.name)
            _, reward, terminated, truncated, _ = world.step(action)
            ended = terminated or truncated
    except Exception:  # it gives up with an AssertionError, a DisappearedBoxError and others
        return None
    if reward <= 0:
        return None
    return Episode(number=number, level=level, seed=seed, mission=world.mission, frames=frames, buttons=buttons)


def _episodes(levels: Sequence[str], seed: int) -> Iterator[Episode]:
    """Solved missions without end, each level in turn; no two share a seed."""
    failures: Counter[str] = Counter()
    for number in itertools.count():
        level = levels[number % len(levels)]
        episode = play(number, level, seed * EPISODE_SEEDS + number)
        failures[level] = 0 if episode else failures[level] + 1
        if episode:
            yield episode
        elif failures[level] == FAILURES_IN_A_ROW:
            raise ExpertError(
                f"--levels: the expert failed {FAILURES_IN_A_ROW} missions of {level} in a row; leave it out"
            )


def _choose(episodes: Iterator[Episode]) -> Iterator[tuple[Episode, int]]:
    """The steps to keep: none that shows the same as a kept one, and none of an action that has its share already.

    So the rows of a held-out mission were never seen in training; and to answer "forward", which is what the
    expert does two times in three, is wrong more often than not.
    """
    shown: set[bytes] = set()
    counts: Counter[str] = Counter()
    for episode in _lively(episodes, shown):
        for step, button in enumerate(episode.buttons):
            sight = _sight(episode, step)
            if sight not in shown and counts[button] <= SHARE * counts.total():
                shown.add(sight)
                counts[button] += 1
                yield episode, step


def _lively(episodes: Iterator[Episode], shown: set[bytes]) -> Iterator[Episode]:
    """`episodes`, until `DRY` of them in a row have added nothing to `shown`."""
    known, dry = 0, 0
    for episode in episodes:
        dry = dry + 1 if len(shown) == known else 0
        if dry > DRY:
            raise ExpertError(
                f"--levels: nothing new to see after {known} sequences; name more levels, or lower --sequences"
            )
        known = len(shown)
        yield episode


def _sight(episode: Episode, step: int) -> bytes:
    """A digest of all that a row lets a model see."""
    seen = [episode.mission.encode(), *(episode.frames[at].tobytes() for at in _window(step))]
    return hashlib.sha256(b"\0".join(seen)).digest()


def _window(step: int) -> list[int]:
    """The steps whose frames a row shows, oldest first; before the fourth step the first frame is repeated."""
    return [max(0, step - back) for back in reversed(range(WINDOW))]


def _write_frames(folder: Path, episode: Episode, step: int) -> dict[str, Any]:
    """Write the frames of a sequence that are not there yet, and return its row."""
    from PIL import Image

    names = []
    for at in _window(step):
        names.append(f"{FRAMES}/{episode.number:06}-{at:02}.png")
        if not (folder / names[-1]).exists():
            Image.fromarray(episode.frames[at]).save(folder / names[-1])
    return {
        "frames": names,
        "context": f"mission: {episode.mission}",
        "action": {"button": episode.buttons[step]},
        "mission": f"{episode.level}-{episode.seed}",
        "level": episode.level,
        "step": step,
    }


def _put_in_place(staging: Path, target: Path) -> None:
    """Rename: a reader sees no recording, the old one or the new one, and never half of one."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _summary(rows: Sequence[dict[str, Any]]) -> str:
    missions = len({row["mission"] for row in rows})
    counts = Counter(row["action"]["button"] for row in rows).most_common()
    buttons = ", ".join(f"{button} {count} ({count / len(rows):.0%})" for button, count in counts)
    return f"{len(rows)} sequences of {missions} missions; {buttons}"


def _require_minigrid() -> None:
    os.environ["PYGAME_HIDE_SUPPORT_PROMPT"] = "1"  # pygame, which minigrid imports, greets on stdout
    try:
        import minigrid  # noqa: F401
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; run: pip install minigrid pillow") from error


def _check_levels(levels: Sequence[str]) -> None:
    import gymnasium

    known = [name for name in gymnasium.registry if name.startswith("BabyAI-")]
    for level in levels:
        if level not in known:
            near = difflib.get_close_matches(level, known, n=1, cutoff=0)[0]
            raise UsageError(f"--levels: {level} is no BabyAI level; did you mean {near}?")


def _check_target(target: Path, force: bool) -> None:
    """Refuse what is not ours to replace, even when forced."""
    if target.exists() and not target.is_dir():
        raise UsageError(f"--output: {target} is a file; name a folder")
    found = sorted(path.name for path in target.iterdir()) if target.exists() else []
    foreign = [name for name in found if name not in {ROWS, FRAMES}]
    if foreign:
        raise UsageError(f"--output: {target} holds {foreign[0]}, which is no part of a recording; name another folder")
    if found and not force:
        raise UsageError(
            f"--output: {target} already holds a recording; name another folder, or replace it with --force"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="record.py", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--output", type=Path, default=Path("data/minigrid"), help="folder to write (default: %(default)s)")
    add("--sequences", type=int, default=671, help="rows to write (default: %(default)s)")
    add("--seed", type=int, default=7, help="what the missions are drawn from (default: %(default)s)")
    add("--levels", nargs="+", default=LEVELS, metavar="LEVEL", help=f"taken in turn (default: {' '.join(LEVELS)})")
    add("--force", action="store_true", help="replace the recording that is in the folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
