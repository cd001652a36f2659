import io
import pickle

import numpy as np
import pytest
from wire_calls import RELEASES, call, npy

from registry.errors import RequestError
from serving import wire

WIDE, TABLE = RELEASES["wide"], RELEASES["table"]
ROWS = np.random.default_rng(0).random((3, 64)).astype(np.float32)


def decode(body, content_type, release=WIDE):
    one = call(body, content_type)
    return wire.codec_of(one.head).decode(one, release).rows


@pytest.mark.parametrize(("body", "reason"), [(b"", "missing"), (b"\0" * 255, "shape"), (b"\0" * 257, "shape")])
def test_bytes_that_are_not_whole_rows_are_refused_with_the_size_of_a_row(body, reason):
    with pytest.raises(
        RequestError, match=r"rows: must be whole rows of 256 bytes \(float32 \(64,\)\), found"
    ) as caught:
        decode(body, b"application/octet-stream")
    assert (caught.value.status, caught.value.reason) == (422, reason)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.filterwarnings("ignore:Stored array in format:UserWarning")  # numpy would rather write version 1
def test_an_npy_file_of_each_version_is_read_as_numpy_wrote_it(version):
    assert np.array_equal(decode(npy(ROWS, version), b"application/x-npy"), ROWS)


def test_an_npy_answer_is_byte_for_byte_what_numpy_saves():
    one = call(npy(ROWS), b"application/x-npy")
    codec = wire.codec_of(one.head)
    for count in (1, 32, 100_000):
        main = np.arange(count * 10, dtype=np.float32).reshape(count, 10)
        reply = codec.encode(WIDE, codec.decode(one, WIDE), "R", {"probabilities": main})
        assert reply.body == npy(main)


def test_an_object_in_an_npy_file_is_refused_and_its_pickle_does_not_run():
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("a pickle ran",)

    file = io.BytesIO()
    head = {"descr": "|O", "fortran_order": False, "shape": (1, 3)}
    np.lib.format.write_array_header_1_0(file, head)
    with pytest.raises(RequestError, match=r"must be float32 \(<f4\), found \|O"):
        decode(file.getvalue() + pickle.dumps(Bomb()), b"application/x-npy", TABLE)


def test_columns_first_are_refused_with_the_cure():
    with pytest.raises(RequestError, match="must be in C order; save numpy.ascontiguousarray"):
        decode(npy(np.asfortranarray(ROWS)), b"application/x-npy")


GOOD = npy(ROWS)
HEAD = GOOD[10:128]


def with_head(head):
    return GOOD[:8] + len(head).to_bytes(2, "little") + head + GOOD[128:]


@pytest.mark.parametrize(
    ("body", "message", "status"),
    [
        (b"", "not an npy file of version", 400),
        (b"PK\x03\x04" + GOOD[4:], "not an npy file of version", 400),
        (GOOD[:6] + b"\x04" + GOOD[7:], "not an npy file of version", 400),
        (GOOD[:100], "ends after 100 of 128 bytes", 400),
        (with_head(HEAD.ljust(2000)), "ends after 1024 of 2010 bytes; accepted are 1024", 400),
        (with_head(HEAD.replace(b"'descr'", b"'deskr'")), "the head of the npy file is not", 400),
        (with_head(HEAD.replace(b"'<f4'", b"[('a', '<f4')]")), "the head of the npy file is not", 400),
        (with_head(HEAD.replace(b"(3, 64)", b"'<f4'")), "the head of the npy file is not", 400),
        (with_head(HEAD.replace(b"(3, 64)", b"(3, 64) + ()")), "the head of the npy file is not", 400),
        (with_head(HEAD.replace(b"(3, 64)", b"(-3, -64)")), "the head of the npy file is not", 400),
        (with_head(HEAD.replace(b"False", b"__import__('os')")), "the head of the npy file is not", 400),
        (with_head(HEAD.replace(b"'shape': ", b"'descr': '<f4', 'shape': ")), "the head of the npy file is not", 400),
        (with_head(b"(" * 900), "the head of the npy file is not", 400),
        (
            with_head(HEAD.replace(b"(3, 64)", b"(64, 3)")),
            r"must have the shape (n, 64) with n >= 1, found (64, 3)",
            422,
        ),
        (with_head(HEAD.replace(b"(3, 64)", b"()")), r"must have the shape (n, 64) with n >= 1, found ()", 422),
        (
            with_head(HEAD.replace(b"(3, 64)", b"(0, 64)")),
            r"must have the shape (n, 64) with n >= 1, found (0, 64)",
            422,
        ),
        (with_head(HEAD.replace(b"(3, 64)", b"(9, 64)")), "must be 2304 bytes for the shape (9, 64), found 768", 422),
        (GOOD[:-1], "must be 768 bytes for the shape (3, 64), found 767", 422),
        (GOOD + b"\0", "must be 768 bytes for the shape (3, 64), found 769", 422),
    ],
)
def test_what_is_wrong_with_an_npy_file_is_said(body, message, status):
    with pytest.raises(RequestError) as caught:
        decode(body, b"application/x-npy")
    assert message in str(caught.value) and caught.value.status == status


def test_an_npy_file_whose_numbers_start_anywhere_gives_aligned_rows():
    for more in range(4):
        got = decode(with_head(HEAD.rstrip() + b" " * more + b"\n"), b"application/x-npy")
        assert got.flags.aligned and np.array_equal(got, ROWS)
