"""Patterns name the shards that a shell, webdataset and open_clip would name."""

import pytest
from braceexpand import braceexpand
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reactvl.manifest import ReactvlError
from reactvl.pool.patterns import braces, expand

word = st.text("abxyz019_-", max_size=4)
number = st.integers(-4, 12).map(str) | st.integers(0, 12).map("{:05d}".format)  # few: four ranges multiply
numbers = st.builds("{{{}..{}}}".format, number, number)
strides = st.builds("{{{}..{}..{}}}".format, number, number, st.integers(1, 9))
letters = st.builds("{{{}..{}}}".format, st.sampled_from("abfz"), st.sampled_from("abfz"))
patterns = st.recursive(
    word | numbers | strides | letters,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.lists(inner, min_size=2, max_size=3).map(lambda items: "{" + ",".join(items) + "}")
    ),
    max_leaves=4,
)


@settings(deadline=None)
@given(patterns)
@example("pool/{00000..00897}.tar")
@example("{-30..130..7}{099..101}")
@example("{a..z..3}/{,b,{c,d}{1..3}}")
def test_braces_expand_as_braceexpand_does(pattern):
    assert braces(pattern) == list(braceexpand(pattern))


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_ranges_globs_folders_lists_and_joins(tmp_path):
    make(tmp_path, "a/00000.tar", "a/00001.tar", "a/00002.tar", "a/notes.txt", "b/x.tar", "b/deep/y.tar")

    def names(pattern):
        return [str(path.relative_to(tmp_path)) for path in expand(pattern)]

    assert names(f"{tmp_path}/a/{{00000..00002}}.tar") == ["a/00000.tar", "a/00001.tar", "a/00002.tar"]
    assert names(f"{tmp_path}/a/*.tar") == names(f"{tmp_path}/a") == ["a/00000.tar", "a/00001.tar", "a/00002.tar"]
    assert names(f"{tmp_path}/{{a/0000[01],b/x}}.tar") == ["a/00000.tar", "a/00001.tar", "b/x.tar"]
    assert names(f"{tmp_path}/b/**/*.tar") == ["b/deep/y.tar", "b/x.tar"]
    assert names(f"{tmp_path}/b::{tmp_path}/a/00001.tar::{tmp_path}/b/x.tar") == ["a/00001.tar", "b/x.tar"]
    assert names([tmp_path / "b", f"{tmp_path}/a/00002.tar"]) == ["a/00002.tar", "b/x.tar"]
    assert names([f"{tmp_path}/a/*1.tar::{tmp_path}/b", f"{tmp_path}/{{a,b}}/[0x]*.tar"]) == [
        *("a/00000.tar", "a/00001.tar", "a/00002.tar", "b/x.tar")
    ]
    assert names(f" {tmp_path}/b/x.tar :: :: {tmp_path}/./b/x.tar ") == ["b/x.tar"]


def test_a_pattern_counts_from_where_one_stands_and_from_home(tmp_path, monkeypatch):
    make(tmp_path, "pool/0.tar", "pool/1.tar")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [str(path) for path in expand("pool/{0..1}.tar")] == ["pool/0.tar", "pool/1.tar"]
    assert expand("~/pool/*.tar") == [tmp_path / "pool/0.tar", tmp_path / "pool/1.tar"]


def test_a_name_with_braces_that_exists_is_taken_as_it_stands(tmp_path):
    make(tmp_path, "odd{1..2}.tar", "odd1.tar", "odd2.tar")
    assert [path.name for path in expand(str(tmp_path / "odd{1..2}.tar"))] == ["odd{1..2}.tar"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{tmp}/none", "does not exist"),
        ("{tmp}/{{0..3}}.tar", "2 of its 4 shards are missing"),
        ("{tmp}/*.zip", "matches no file"),
        ("{tmp}/empty", "holds no .tar file"),
        ("{tmp}/{{0..3.tar", "never closed"),
        ("{tmp}/0..3}}.tar", "no { before it"),
        ("{tmp}/{{0..99999999}}.tar", "mistyped"),
        ("{tmp}/{{0..999}}{{0..9999}}.tar", "mistyped"),
        ("https://example.org/0.tar", "only local files"),
        ("pipe:curl -s x", "only local files"),
        ("", "the pool is empty"),
        ("::", "the pool is empty"),
    ],
)
def test_a_pool_that_names_no_shards_is_one_clear_error(tmp_path, pattern, words):
    make(tmp_path, "0.tar", "1.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReactvlError, match=words.replace("{", r"\{")):
        expand(pattern.format(tmp=tmp_path))
