"""open_clip's flags are accepted as spelled, said in our words, or answered with what to use."""

import pytest

from reactvl.customize.flags import ALWAYS, INSTEAD, translated
from reactvl.manifest import ReactvlError


def after(words: list[str], flag: str) -> str | None:
    return words[words.index(flag) + 1] if flag in words else None


@pytest.mark.parametrize(
    ("given", "tune", "unlocked"),
    [
        ("--lock-image-unlock-gated --lock-text", "gated-image", None),
        ("--lock-text", "locked-text", None),
        ("--lock_text", "locked-text", None),
        ("--lock-image", "locked-image", None),
        ("--lock-image --lock-image-unlock-gated --lock-text", "gated-image", None),
        ("--lock-text --lock-text-unlocked-layers 2", "locked-text", "2"),
        ("--lock-text --lock-text-unlocked-layers=2", "locked-text", "2"),
        ("--lock-image --lock-image-unlocked-groups 3", "locked-image", "2"),
        ("--lr 1e-3", None, None),
    ],
)
def test_locks_say_what_is_tuned(given, tune, unlocked):
    words = translated(given.split())
    assert (after(words, "--tune"), after(words, "--unlock-last")) == (tune, unlocked)
    assert not any("lock-" in word and word != "--unlock-last" for word in words)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("--lock-image --lock-text", "nothing is left to train"),
        ("--lock-image-unlock-gated", "add --lock-text"),
        ("--lock-text --tune full", "give one of them"),
        ("--lock-text --tune=full", "give one of them"),
        ("--lock-text-unlocked-layers 2", "add --lock-text"),
        ("--lock-image-unlocked-groups 2", "add --lock-image"),
        ("--lock-image --lock-text-unlocked-layers 2", "leave it out"),
        ("--lock-text --lock-text-unlocked-layers two", "wants a number"),
        ("--lock-image --lock-image-unlocked-groups 1", "projection alone"),
    ],
)
def test_locks_that_contradict_each_other_are_refused(given, says):
    with pytest.raises(ReactvlError, match=says):
        translated(given.split())


def test_other_words_pass_unchanged_and_in_order():
    words = ["run/retrieved", "--aug-cfg", "use_timm=True", "scale=(0.08,1.0)", "--epochs", "2", "--lock-text"]
    assert translated(words)[:6] == words[:6]
    assert translated(["--skip-scheduler", "--delete-previous-checkpoint"]) == [
        *("--lr-scheduler", "const", "--warmup", "0"),
        *("--keep", "1"),
    ]


@pytest.mark.parametrize("name", INSTEAD)
def test_a_flag_without_an_equal_ends_with_what_to_use(name):
    for word in ([f"--{name}", "7"], [f"--{name}=7"], [f"--{name.replace('-', '_')}"]):
        with pytest.raises(ReactvlError, match=f"--{name}: .{{12,}}"):
            translated(["pool", *word])


@pytest.mark.parametrize("name", ALWAYS)
def test_what_is_always_so_is_said_and_dropped(name, capsys):
    assert translated([f"--{name}", "--lr", "1"]) == ["--lr", "1"]
    assert f"--{name} is not needed" in "".join(capsys.readouterr())
