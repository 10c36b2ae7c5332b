"""Class lists with synonyms, pictures and templates: every form says the same, and faults name file and line."""

import json
import re
import warnings

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reactvl.manifest import ReactvlError
from reactvl.tasks.classes import ClassEntry, read_class_list, read_classes

# names as people give them: no control characters, no white space at the ends
letters = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp", "Zs"))
names = st.text(letters, min_size=1, max_size=12)
plain_names = names.filter(lambda name: not {"|", ","} & set(name) and not name.startswith("#"))
many_names = st.lists(st.lists(names, min_size=1, max_size=3, unique=True), min_size=1, max_size=6)
keys = st.sampled_from(["class", "classes", "name", "synonyms", "examples", "templates", "x"])
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(letters, max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
few = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def quietly(read, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of equal names, which stay apart
        return read(*arguments)


def entries(lists) -> list[ClassEntry]:
    return [ClassEntry(one[0], tuple(one)) for one in lists]


@few
@given(many_names)
def test_toml_json_and_python_lists_say_the_same(tmp_path, lists):
    expected = entries(lists)
    assert quietly(read_class_list, lists) == expected
    tables = [{"name": one[0], "synonyms": one[1:]} for one in lists]
    files = {
        "a.toml": tomli_w.dumps({"class": tables}),
        "b.toml": tomli_w.dumps({"classes": lists}),
        "c.json": json.dumps({"class": tables}),
        "d.json": json.dumps({"classes": lists}),
        "e.json": json.dumps(lists, ensure_ascii=False),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert quietly(read_class_list, tmp_path / name) == quietly(read_class_list, str(tmp_path / name)) == expected
        assert quietly(read_classes, tmp_path / name) == [one[0] for one in lists]


@few
@given(st.lists(st.lists(plain_names, min_size=1, max_size=3, unique=True), min_size=1, max_size=6))
def test_text_parts_names_with_bars(tmp_path, lists):
    expected = entries(lists)
    lines = ["|".join(one) for one in lists]
    (tmp_path / "classes.txt").write_text("\n".join(["# who is who", "", *lines]), encoding="utf-8")
    (tmp_path / "classes.json").write_text(json.dumps(lines))
    assert quietly(read_class_list, tmp_path / "classes.txt") == expected
    assert quietly(read_class_list, lines) == expected
    assert quietly(read_class_list, tmp_path / "classes.json") == expected
    if len(lists) > 1:
        assert quietly(read_class_list, ",".join(lines)) == expected


@few
@given(many_names)
def test_a_mapping_of_name_to_further_names(tmp_path, lists):
    pairs = ",".join(f"{json.dumps(one[0])}: {json.dumps(one[1:])}" for one in lists)
    (tmp_path / "classes.json").write_text('{"classes": {' + pairs + "}}")
    assert quietly(read_class_list, tmp_path / "classes.json") == entries(lists)  # equal names stay two classes
    mapping = {one[0]: one[1:] for one in lists}
    expected = entries([[name, *more] for name, more in mapping.items()])
    (tmp_path / "classes.toml").write_text(tomli_w.dumps({"classes": mapping}), encoding="utf-8")
    assert quietly(read_class_list, tmp_path / "classes.toml") == quietly(read_class_list, mapping) == expected


@few
@given(st.binary(max_size=60), st.sampled_from(["txt", "toml", "json"]))
def test_any_bytes_are_classes_or_one_clear_line(tmp_path, data, suffix):
    path = tmp_path / f"classes.{suffix}"
    path.write_bytes(data)
    try:
        found = quietly(read_class_list, path)
    except ReactvlError as fault:
        assert str(fault).startswith(str(path)) and "\n" not in str(fault)
    else:
        assert found and all(entry.name and entry.synonyms[0] == entry.name for entry in found)


@few
@given(any_json)
def test_any_json_is_classes_or_one_clear_line(tmp_path, value):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(value))
    try:
        assert quietly(read_class_list, path)
    except ReactvlError as fault:
        assert "\n" not in str(fault)


def test_pictures_and_templates_of_a_class(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b c.png"):
        (tmp_path / "photos" / name).write_bytes(b"")
    path = tmp_path / "zoo.toml"
    path.write_text(
        '[[class]]\nname = "red panda"\nsynonyms = ["lesser panda", "red panda"]\n'
        'examples = ["photos/a.jpg", "photos/b c.png"]\ntemplates = ["a {c} in a tree."]\n[[class]]\nname = "A|B  C"\n'
    )
    panda, other = read_class_list(path)
    assert panda.synonyms == ("red panda", "lesser panda")
    assert panda.examples == (tmp_path / "photos/a.jpg", tmp_path / "photos/b c.png")
    assert panda.templates == ("a {} in a tree.",)
    assert other == ClassEntry("A|B  C", ("A|B  C",))  # a table's name is taken as it stands
    path.write_text('templates = ["a {}."]\n' + path.read_text())
    assert [entry.templates for entry in read_class_list(path)] == [("a {} in a tree.",), ("a {}.",)]
    assert read_class_list([panda, "raccoon"]) == [panda, ClassEntry("raccoon", ("raccoon",))]


def test_equal_display_names_stay_apart_with_a_warning(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("missile|rocket\ngun\nmissile|projectile\n")
    with pytest.warns(UserWarning, match=f"{re.escape(str(path))}: class 2 has the name of class 0, 'missile'"):
        found = read_class_list(path)
    assert [entry.synonyms for entry in found] == [("missile", "rocket"), ("gun",), ("missile", "projectile")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.txt", "ox\n\nred panda||x\n", r"c\.txt, line 3: 'red panda\|\|x' has an empty name"),
        ("c.txt", "ox\n|\n", r"c\.txt, line 2: '\|' has an empty name"),
        ("c.txt", "ox\na\x00b\n", r"c\.txt, line 2: the name 'a\\x00b' holds"),
        ("c.toml", '[[class]]\nname = "ox"\n\n[[class]]\nname = ""\n', r"class 2 \(line 4\): the class name is empty"),
        (
            "c.toml",
            '[[class]]\nname = "ox"\nsynonym = []\n',
            r"class 1 \(line 1\): the class contains unknown key `synonym`",
        ),
        ("c.toml", "[[class]]\nsynonyms = []\n", r"class 1 \(line 1\): the class missing required key `name`"),
        ("c.toml", '[[class]]\nname = "ox"\ntemplates = ["a"]\n', r"class 1 \(line 1\): template 'a' must hold"),
        ("c.toml", '[[class]]\nname = "ox"\ntemplates = []\n', r"class 1 \(line 1\): its list of templates is empty"),
        (
            "c.toml",
            '[[class]]\nname = "ox"\nexamples = ["no.jpg"]\n',
            r"class 1 \(line 1\): example .*no\.jpg: no such",
        ),
        ("c.toml", '[[class]]\nname = "ox"\nexamples = ["."]\n', r"class 1 \(line 1\): example .*: is a folder"),
        ("c.toml", 'classes = [\n  "ox",\n  "cat|",\n]\n', r"class 2 \(line 3\): 'cat\|' has an empty name"),
        ("c.toml", 'classes = [\n  "ox",\n  ["ant", 4],\n]\n', r"class 2 \(line 3\): the name 4 is not text"),
        ("c.toml", "[classes]\nox = []\ncat = 3\n", r"class 2 \(line 3\): the further names of 'cat' are 3"),
        ("c.toml", 'classes = ["ox"\nx = 1', r"is not TOML: .*\(at line 2, column 1\)"),
        ("c.toml", "[classes]\nox = []\nox = []\n", r"is not TOML: .*\(at line 3, column 8\)"),
        ("c.toml", 'classes = ["ox"]\n[[class]]\nname = "x"\n', "gives its classes, or another key, twice"),
        ("c.toml", 'class = [{name = "ox"}]\nclases = 1\n', "unknown key 'clases'"),
        ("c.toml", "classes = 3\n", "its classes are 3, wanted a list"),
        ("c.toml", "", "holds no class name"),
        ("c.json", '{"class": [{"name": "ox"},\n{"name": "ox" "x"}]}', r"is not JSON: .* \(at line 2, column 15\)"),
        ("c.json", '{"class": [{"name": "ox"},\n{"name": "a",\n "name": "b"}]}', r"class 2 .*gives a key twice"),
        ("c.json", '[{"name": "ox"},\n{"name": "ox\\n"}, {"name": "a\\u0007b"}]', r"class 3: the name 'a\\x07b' holds"),
        ("c.json", "[" * 100_000, "cannot be read|is not JSON"),
        ("c.json", "[" + "1" * 10_000 + "]", "cannot be read"),
        ("c.json", '"ox"', "its classes are 'ox', wanted a list"),
        ("c.json", "[]", "holds no class name"),
        ("c.json", "{}", "holds no class name"),
    ],
)
def test_faults_name_the_file_and_the_line(name, text, message, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ReactvlError, match=message) as fault:
        read_class_list(path)
    assert str(fault.value).startswith(str(path)) and "\n" not in str(fault.value)


@pytest.mark.parametrize("name", ["gone.toml", "gone.json", "gone.txt"])
def test_a_missing_file_and_a_folder_are_errors(name, tmp_path):
    with pytest.raises(ReactvlError, match="no such file of classes"):
        read_class_list(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(ReactvlError, match="cannot be read"):
        read_class_list(tmp_path / name)


def test_what_looks_like_a_file_is_a_list_where_it_has_commas_or_bars():
    assert read_classes("a.json,b") == ["a.json", "b"]
    assert [entry.synonyms for entry in read_class_list("N/A|none")] == [("N/A", "none")]
