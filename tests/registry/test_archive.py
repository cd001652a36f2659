"""Releases that travel: with ours and BentoML's own programs, and archives made to do harm."""

import io
import json
import lzma
import subprocess
import sys
import tarfile

import pytest
from tiny_release import make_draft, make_files

from registry import aliases, archive, release, signing, store
from registry.errors import ReleaseError

# What is no packed release, and was not cut short.
OTHERS = (b"a,b\n", b"not an archive", lzma.compress(b"short"), lzma.compress(b""), lzma.compress(b"x" * 5000))
BENTOML = [sys.executable, "-m", "bentoml", "models"]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Return a function that goes to another, empty machine."""

    def go():
        monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "other"))

    return go


@pytest.fixture
def packed(publish, tmp_path):
    """Return a release and the file it was packed into."""
    made = publish()
    archive.pack(made.tag, tmp_path / "out.bentomodel")
    return made, tmp_path / "out.bentomodel"


def members(path):
    """Return (TarInfo, content) of every member."""
    with tarfile.open(path, "r:xz") as tar:
        return [(member, tar.extractfile(member).read()) for member in tar if member.isreg()]


def write(path, entries, form=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w:xz", format=form) as tar:
        for member, content in entries:
            tar.addfile(member, io.BytesIO(content))
    return path


def odd(name, kind=tarfile.REGTYPE, target="", content=b""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, len(content)
    return member, content


def test_a_release_arrives_with_the_same_bytes_digest_card_and_signature(
    publish, tmp_path, elsewhere, pair, monkeypatch
):
    made = store.sign(publish().tag, pair[0])
    archive.pack(made.tag, tmp_path / "out.bentomodel")
    elsewhere()
    monkeypatch.setenv(signing.VARIABLE, str(pair[1]))
    arrived = archive.unpack(tmp_path / "out.bentomodel")
    assert (arrived.tag, arrived.digest, arrived.manifest) == (made.tag, made.digest, made.manifest)
    assert {f: arrived.read(f) for f in made.manifest.files} == {f: made.read(f) for f in made.manifest.files}
    assert store.open_release(made.tag).path != made.path
    assert (store.models() / "tiny" / "latest").read_text() == made.version


def test_aliases_and_history_do_not_travel(publish, tmp_path, elsewhere):
    made = publish()
    aliases.promote(made.tag, "first")
    archive.pack(made.tag, tmp_path / "out.bentomodel")
    elsewhere()
    archive.unpack(tmp_path / "out.bentomodel")
    assert aliases.read("tiny") == aliases.Aliases("tiny")


def test_the_same_release_packs_to_the_same_bytes(packed, tmp_path):
    archive.pack(packed[0].tag, tmp_path / "again.bentomodel")
    assert (tmp_path / "again.bentomodel").read_bytes() == packed[1].read_bytes()


def test_bentoml_lists_and_imports_what_we_pack_and_we_unpack_what_it_exports(packed, tmp_path, elsewhere, monkeypatch):
    made, file = packed
    subprocess.run([*BENTOML, "export", made.tag, str(tmp_path / "theirs.bentomodel")], capture_output=True, check=True)
    elsewhere()
    subprocess.run([*BENTOML, "import", str(file)], capture_output=True, check=True)
    assert store.open_release(made.tag).digest == made.digest
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "third"))
    assert archive.unpack(tmp_path / "theirs.bentomodel").digest == made.digest
    listed = subprocess.run([*BENTOML, "list", "--output", "json"], capture_output=True, text=True, check=True)
    assert [one["tag"] for one in json.loads(listed.stdout)] == [made.tag]


def test_an_older_release_that_arrives_is_not_the_latest(publish, tmp_path):
    old = publish(created="2026-01-01T00:00:00Z")
    archive.pack(old.tag, tmp_path / "old.bentomodel")
    for path in old.path.iterdir():
        path.unlink()
    old.path.rmdir()
    new = publish(created="2026-06-01T00:00:00Z")
    archive.unpack(tmp_path / "old.bentomodel")
    assert (store.models() / "tiny" / "latest").read_text() == new.version


ATTACKS = {
    "a path upwards": [odd("../../models/evil", content=b"x")],
    "a path upwards inside": [odd("./a/../../evil", content=b"x")],
    "an absolute path": [odd("/tmp/evil", content=b"x")],
    "a file in a folder": [odd("sub/evil", content=b"x")],
    "a folder": [odd("sub", tarfile.DIRTYPE)],
    "a symbolic link": [odd("card.html", tarfile.SYMTYPE, "/etc/passwd")],
    "a link followed by a file through it": [odd("up", tarfile.SYMTYPE, ".."), odd("up/evil", content=b"x")],
    "a hard link": [odd("card.html", tarfile.LNKTYPE, "card.md")],
    "a character device": [odd("card.html", tarfile.CHRTYPE)],
    "a block device": [odd("card.html", tarfile.BLKTYPE)],
    "a pipe": [odd("card.html", tarfile.FIFOTYPE)],
    "a sparse file": [odd("card.html", tarfile.GNUTYPE_SPARSE)],
    "a contiguous file": [odd("card.html", tarfile.CONTTYPE, content=b"x")],
    "a hidden file": [odd(".hidden", content=b"x")],
    "an empty name": [odd("./", content=b"x")],
    "a name that is not text": [odd("caf\udce9", content=b"x")],
    "a name too long": [odd("n" * 200, content=b"x")],
    "the same name twice": [odd("./card.md", content=b"# Another card\n")],
    "a file that was not published": [odd("extra.bin", content=b"x")],
    "the pickle that BentoML loads": [odd("custom_objects.pkl", content=b"x")],
}


def refused(path, words):
    with pytest.raises(ReleaseError, match=words):
        archive.unpack(path)
    assert store.releases() == [] and list((store.home() / "staging").iterdir()) == []


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_archive_that_holds_more_than_a_release_is_refused_and_leaves_nothing(packed, elsewhere, attack):
    good = members(packed[1])
    write(packed[1], [*good[:3], *ATTACKS[attack], *good[3:]])
    elsewhere()
    refused(packed[1], "no plain file of a release|twice|were not published|is not the file|is no release that")
    assert not list(packed[1].parent.rglob("*evil*"))


def test_a_file_that_claims_a_terabyte_is_refused_before_it_is_read(packed, elsewhere):
    member, _ = odd("model.onnx")
    member.size = 2**40
    header = member.tobuf(tarfile.GNU_FORMAT)
    packed[1].write_bytes(lzma.compress(header + bytes(1024)))
    elsewhere()
    refused(packed[1], "holds more than 8 GB")


def test_content_above_the_limit_is_refused_although_the_file_is_small(packed, elsewhere):
    write(packed[1], [odd("zeros.bin", content=bytes(30_000_000)), *members(packed[1])])
    assert packed[1].stat().st_size < 100_000
    elsewhere()
    with pytest.raises(ReleaseError, match=r"holds more than 0\.02 GB"):
        archive.unpack(packed[1], most_bytes=20_000_000)
    assert store.releases() == []


def test_too_many_files_are_refused(packed, elsewhere):
    write(packed[1], [odd(f"file{i}") for i in range(archive.MOST_FILES + 1)])
    elsewhere()
    refused(packed[1], "or 1000 files")


def test_a_note_that_claims_to_be_large_is_refused(packed, elsewhere):
    write(packed[1], [odd("./PaxHeader", tarfile.XHDTYPE, content=bytes(archive.MOST_NOTES + 1))])
    elsewhere()
    refused(packed[1], "no plain file")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda good: b"", "is cut short"),
        (lambda good: good[:5], "is cut short"),
        *((lambda good, other=other: other, "is no release that `vigil pack` or") for other in OTHERS),
        (lambda good: good[:1000], "is cut short"),
        (lambda good: lzma.compress(bytes(1024)), "incomplete, there is no manifest.json"),
        (lambda good: good[:2000] + bytes([good[2000] ^ 1]) + good[2001:], "is no release that|is not the file"),
    ],
)
def test_what_is_no_whole_archive_is_refused(packed, elsewhere, damage, words):
    packed[1].write_bytes(damage(packed[1].read_bytes()))
    elsewhere()
    refused(packed[1], words)


def test_an_archive_with_a_changed_file_is_refused(packed, elsewhere):
    entries = [(m, c) for m, c in members(packed[1]) if m.name != "./card.md"]
    write(packed[1], [*entries, odd("./card.md", content=b"# Nicer\n")])
    elsewhere()
    refused(packed[1], r"card\.md is not the file that was published")


@pytest.mark.parametrize("said", [{"name": "../up"}, {"name": 7}, {"created": "yesterday"}, {"created": None}])
def test_a_manifest_with_a_tag_that_leads_elsewhere_is_refused(packed, elsewhere, said):
    entries = {m.name: (m, c) for m, c in members(packed[1])}
    content = json.dumps(json.loads(entries["./manifest.json"][1]) | said).encode()
    write(packed[1], (entries | {"./manifest.json": odd("./manifest.json", content=content)}).values())
    elsewhere()
    refused(packed[1], r"manifest\.json: ('\.\./up'|7) is not a model name|created is not a time")


@pytest.mark.parametrize(
    "said",
    [
        {"metrics": 5}, {"metrics": {"accuracy": 5}}, {"metrics": {"accuracy": {"value": "high"}}}, {"task": "poetry"},
        {"parity": {"limit": 1e-4}}, {"gate": {"margin": "0.02", "confidence": 0.95}}, {"quality": {"floor": None}},
        {"precision": None},
    ],
)  # fmt: skip
def test_a_manifest_that_could_not_be_listed_or_judged_is_refused(packed, elsewhere, said):
    entries = {m.name: (m, c) for m, c in members(packed[1])}
    content = json.dumps(json.loads(entries["./manifest.json"][1]) | said).encode()
    write(packed[1], (entries | {"./manifest.json": odd("./manifest.json", content=content)}).values())
    elsewhere()
    refused(packed[1], r"manifest\.json cannot be read: ")


def test_an_unsigned_archive_is_refused_where_a_signature_is_demanded(packed, elsewhere, pair, monkeypatch):
    monkeypatch.setenv(signing.VARIABLE, str(pair[1]))
    elsewhere()
    refused(packed[1], "is not signed")


def test_the_yaml_of_an_archive_is_not_believed(packed, elsewhere):
    entries = [(m, c) for m, c in members(packed[1]) if m.name != "./model.yaml"]
    write(packed[1], [*entries, odd("./model.yaml", content=b"name: other\nversion: evil\n")])
    elsewhere()
    arrived = archive.unpack(packed[1])
    assert b"evil" not in (arrived.path / release.BENTOML_FILE).read_bytes()


def test_a_release_that_is_there_already_is_not_replaced(packed):
    with pytest.raises(ReleaseError, match="is in the store already"):
        archive.unpack(packed[1])
    store.open_release(packed[0].tag)


def test_packing_replaces_no_file_and_names_what_it_cannot_write(packed, tmp_path):
    for path, words in (
        (packed[1], "is there already"),
        (tmp_path / "out.tar.gz", r"must end in \.bentomodel"),
        (tmp_path / "no" / "out.bentomodel", "cannot be written: No such file"),
        (packed[1] / "out.bentomodel", "cannot be written: Not a directory"),
    ):
        with pytest.raises(ReleaseError, match=words):
            archive.pack(packed[0].tag, path)
    with pytest.raises(ReleaseError, match="cannot be unpacked: No such file"):
        archive.unpack(tmp_path / "no.bentomodel")


def test_a_disk_that_is_full_when_a_release_arrives_is_said_in_words(packed, elsewhere, small_files):
    elsewhere()
    with small_files():
        refused(packed[1], "cannot be unpacked: File too large")


def test_a_file_with_the_longest_name_travels(tmp_path, elsewhere):
    files = make_files(tmp_path / "files")
    (files / ("n" * 98)).write_text("long")
    archive.pack(store.publish(make_draft(), files).tag, tmp_path / "out.bentomodel")
    elsewhere()
    assert archive.unpack(tmp_path / "out.bentomodel").read("n" * 98) == b"long"


def test_an_altered_release_is_not_packed(publish, tmp_path):
    made = publish()
    (made.path / "card.md").write_text("nicer")
    with pytest.raises(ReleaseError, match=r"card\.md is not the file"):
        archive.pack(made.tag, tmp_path / "out.bentomodel")
    assert not (tmp_path / "out.bentomodel").exists()
