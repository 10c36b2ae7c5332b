"""Class names and templates as users give them."""

import pytest

from reactvl.manifest import ReactvlError
from reactvl.tasks.classes import read_classes
from reactvl.tasks.templates import SIMPLE, prompt, read_templates


def test_a_file_a_comma_list_and_a_list_name_the_same_classes(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("\ufeffred panda\n\n# wild ones\n  raccoon \r\nC#\n", encoding="utf-8")
    expected = ["red panda", "raccoon", "C#"]
    assert read_classes(path) == read_classes(str(path)) == expected
    assert read_classes("red panda, raccoon,C#,") == read_classes(expected) == read_classes(tuple(expected)) == expected


def test_names_may_hold_anything_but_line_breaks():
    assert read_classes(["Ünï çode", "<b>&</b>", "{}", "A/C"]) == ["Ünï çode", "<b>&</b>", "{}", "A/C"]
    assert read_classes("cat") == ["cat"]


def test_a_comma_list_may_be_longer_than_a_files_name():
    for count in (60, 6000):
        names = [f"class {number}" for number in range(count)]
        assert read_classes(", ".join(names)) == names


def test_equal_names_stay_two_classes_with_a_warning():
    with pytest.warns(UserWarning, match="class 2 has the name of class 0, 'missile'"):
        assert read_classes(["missile", "gun", "missile"]) == ["missile", "gun", "missile"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no class name"),
        ("", "no class name"),
        (" , ", "no class name"),
        (["a", " "], r"classes\[1\]: the class name is empty"),
        (["a", ["b", 3]], r"classes\[1\]: the name 3 is not text"),
        (["a", None], r"classes\[1\]: None is not text"),
        (["a", []], r"classes\[1\]: the class has no name"),
        ("a||b,c", r"classes, entry 1: 'a\|\|b' has an empty name"),
        ("missing/classes.txt", "missing/classes.txt: no such file"),
        ("classes.txt", "no such file"),
    ],
)
def test_bad_class_lists_end_in_one_clear_line(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReactvlError, match=message) as fault:
        read_classes(given)
    assert "\n" not in str(fault.value)


def test_an_empty_file_and_bytes_that_are_no_text_are_errors(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes(b"\n\n")
    with pytest.raises(ReactvlError, match="holds no class name"):
        read_classes(path)
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(ReactvlError, match="not UTF-8"):
        read_classes(path)


def test_named_templates_are_open_clips():
    from reactvl.clip_imports import open_clip

    openai = read_templates("openai")
    assert len(openai) == 80 and len(set(openai)) == 80
    assert [template("red panda") for template in open_clip.OPENAI_IMAGENET_TEMPLATES] == [
        prompt(template, "red panda") for template in openai
    ]
    assert tuple(template("{}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES) == SIMPLE
    assert read_templates("simple") == read_templates(["simple"]) == list(SIMPLE)


def test_templates_from_a_file_a_list_and_one_alone(tmp_path):
    path = tmp_path / "templates.txt"
    path.write_text("a photo of a {c}, a type of pet.\n{}\n")
    expected = ["a photo of a {}, a type of pet.", "{}"]
    assert read_templates(path) == read_templates(str(path)) == read_templates(expected) == expected
    assert read_templates("a photo of a {}, a type of pet.") == expected[:1]


def test_braces_in_a_class_name_are_text():
    assert prompt("a {}.", "{} {0} {c}") == "a {} {0} {c}."


@pytest.mark.parametrize("given", [[], "a photo", ["{} and {}"], ["a {name}"], "gone.txt", "openia"])
def test_bad_templates_end_in_one_clear_line(given):
    with pytest.raises(ReactvlError, match="template"):
        read_templates(given)
