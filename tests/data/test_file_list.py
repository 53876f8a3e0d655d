"""pytest tests/data/test_file_list.py"""

import pytest

from gpt2ft.data.file_list import kind_of, list_files, weighted


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("notes/b.md", "notes/a.TXT", "notes/deep/er/c.jsonl.zst", "notes/deep/d.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", encoding="utf-8")
    for name in ("notes/photo.png", "notes/.git.md", "notes/.hidden/e.md", "notes/Makefile"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x", encoding="utf-8")
    return tmp_path


def test_a_folder_stands_for_the_texts_and_records_in_it(folder):
    found = list_files(["notes"])
    assert found.names == [
        *("notes/a.TXT", "notes/b.md", "notes/deep/d.csv", "notes/deep/er/c.jsonl.zst")
    ]
    assert found.notes == ["2 files of other kinds left out (1 Makefile, 1 .png) in notes"]


def test_a_glob_takes_what_it_names(folder):
    assert list_files("notes/*.png").names == ["notes/photo.png"]
    assert list_files(["notes/**/*.csv", "notes/b.md"]).names == ["notes/deep/d.csv", "notes/b.md"]


def test_a_folder_without_texts_names_the_endings(folder):
    (folder / "photos").mkdir()
    with pytest.raises(ValueError, match=r"photos has no file that ends in \.txt .*'photos/\*'"):
        list_files("photos/")


def test_empty_files_among_others_are_counted(folder):
    for name in ("one.md", "two.md"):
        (folder / "notes" / name).touch()
    found = list_files("notes/*.md")
    assert found.names == ["notes/b.md"]
    assert found.notes == ["2 empty files left out: notes/one.md, notes/two.md"]
    with pytest.raises(ValueError, match=r"notes/one\.md is empty, give a file with text"):
        list_files(["notes/one.md", "notes/two.md"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("a.txt", "text"), ("README", "text"), ("a.md.gz", "text"), ("a.gz", "text")),
        *(
            ("a.JSONL.ZST", "json"),
            ("a.json", "json"),
            ("b.csv.xz", "csv"),
            ("c.parquet", "parquet"),
        ),
        ("a.b.csv.bz2", "csv"),
    ],
)
def test_kinds(name, kind):
    assert kind_of(name) == kind


def test_weights(folder):
    assert weighted(["a.txt:0.7", "b/*.jsonl:.3", "c:2"]) == [
        *(("a.txt", 0.7), ("b/*.jsonl", 0.3), ("c", 2.0))
    ]
    assert weighted(["a.txt", "b.txt"]) == []
    (folder / "odd:1").write_text("x", encoding="utf-8")  # a file that is called so
    assert weighted(["odd:1"]) == []
    with pytest.raises(ValueError, match=r"b\.txt has no weight but others have, .*: b\.txt:1"):
        weighted(["a.txt:1", "b.txt"])
    for wrong in ("0.0", "-1", "1e999", "1e"):
        with pytest.raises(ValueError, match=rf"has the weight {wrong}, give one above 0"):
            weighted([f"a.txt:{wrong}"])
    with pytest.raises(ValueError, match="names a corpus twice"):
        weighted(["a.txt:1", "a.txt:2"])
    assert weighted(["a.txt:1e-3"]) == [("a.txt", 0.001)]


def test_folders_of_runs_and_broken_links_are_left_out(folder):
    (folder / "notes" / "out").mkdir()
    for name in ("run.json", "report.md"):
        (folder / "notes" / "out" / name).write_text("{}", encoding="utf-8")
    (folder / "notes" / "gone.md").symlink_to("nowhere")
    found = list_files("notes")
    assert not any("out" in name or "gone" in name for name in found.names)
    assert found.notes[1] == "folders of models and runs left out: notes/out"
    assert "1 broken link" in found.notes[0]
