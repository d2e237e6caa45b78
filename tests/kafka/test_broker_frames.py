"""The frames the front reads and writes itself, against bytes worked out by hand."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_utils import link, oversize, wire
from kafka_utils.wire import Cursor, MalformedFrameError, NewTopic


def test_a_request_frame_by_hand():
    """Size 23, ApiVersions v2, correlation 7, client id, body."""
    frame = wire.request_frame(wire.API_VERSIONS, 2, 7, b"\xaa")
    assert frame == (
        b"\x00\x00\x00\x18" + b"\x00\x12" + b"\x00\x02" + b"\x00\x00\x00\x07"
        + b"\x00\x0dskyline-probe" + b"\xaa"
    )  # fmt: skip


def test_strings_by_hand():
    """null is length -1, text has its length in bytes."""
    assert wire.string_bytes(None) == b"\xff\xff"
    assert wire.string_bytes("ä") == b"\x00\x02\xc3\xa4"
    cursor = Cursor(b"\xff\xff\x00\x02\xc3\xa4")
    assert (cursor.string(), cursor.string()) == (None, "ä")


@pytest.mark.parametrize(("raw", "value"), [(b"\x00", 0), (b"\x7f", 127), (b"\xac\x02", 300)])
def test_varints_by_hand(raw, value):
    assert Cursor(raw).unsigned_varint() == value


@given(st.binary(max_size=64), st.integers(0, 4))
def test_any_bytes_are_a_request_or_malformed(data, version):
    """Parsing ends with topics or MalformedFrameError, never with another error."""
    try:
        topics, _ = wire.parse_create_topics(Cursor(data), version)
    except MalformedFrameError:
        return
    assert all(isinstance(topic, NewTopic) for topic in topics)


@pytest.mark.parametrize(
    ("version", "request_body", "answer"),
    [
        (
            1,
            b"\x00\x01c" + struct.pack(">hii", 1, 9, 1) + b"\x00\x01a" + struct.pack(">i", 1)
            + struct.pack(">ii", 3, 2) + b"xy",
            struct.pack(">i", 1) + b"\x00\x01a" + struct.pack(">iihqi", 1, 3, 10, -1, 0),
        ),
        (
            9,
            b"\x00\x01c\x00" + b"\x00" + struct.pack(">hi", -1, 9) + b"\x02\x02a\x02"
            + struct.pack(">i", 3) + b"\x03xy\x00" + b"\x00\x00",
            b"\x00\x02\x02a\x02" + struct.pack(">ihqqq", 3, 10, -1, -1, -1)
            + b"\x01" + bytes([len(oversize._REASON) + 1]) + oversize._REASON.encode()
            + b"\x00\x00" + struct.pack(">i", 0) + b"\x00",
        ),
    ],
)  # fmt: skip
def test_a_produce_request_and_its_refusal_by_hand(version, request_body, answer):
    """One topic "a", partition 3, two bytes of records; MESSAGE_TOO_LARGE is 10."""
    acks, places = oversize.parse_places(request_body, version)
    assert acks in {1, -1} and places == [("a", [3])]
    assert oversize.refusal_body(places, version) == answer


@given(st.binary(max_size=64), st.integers(0, 10))
def test_any_bytes_are_a_produce_request_or_malformed(data, version):
    """Parsing ends with places or MalformedFrameError, never with another error."""
    try:
        acks, _ = oversize.parse_places(data, version)
    except MalformedFrameError:
        return
    assert isinstance(acks, int)


def test_create_topics_by_hand():
    """Two topics, the second with its partitions assigned one by one; validate only."""
    body = (
        struct.pack(">i", 2)
        + b"\x00\x01a" + struct.pack(">ih", 3, 1) + struct.pack(">i", 0)
        + struct.pack(">i", 1) + b"\x00\x01k" + b"\x00\x01v"
        + b"\x00\x01b" + struct.pack(">ih", -1, -1) + struct.pack(">i", 2)
        + struct.pack(">iii", 0, 1, 1) + struct.pack(">iii", 1, 1, 1) + struct.pack(">i", 0)
        + struct.pack(">i", 5000) + b"\x01"
    )  # fmt: skip
    topics, validate_only = wire.parse_create_topics(Cursor(body), 4)
    assert topics == [NewTopic("a", 3, 1), NewTopic("b", 2, -1)]
    assert validate_only
    assert wire.create_topics_body([("a", 36, None)], 4) == (
        b"\x00\x00\x00\x00" + b"\x00\x00\x00\x01" + b"\x00\x01a" + b"\x00\x24" + b"\xff\xff"
    )


@pytest.mark.parametrize(
    ("topic", "error"),
    [
        (NewTopic("ok", 4, 1), 0),
        (NewTopic("ok", -1, -1), 0),
        (NewTopic("a b", 1, 1), 17),
        (NewTopic("..", 1, 1), 17),
        (NewTopic("ok", 0, 1), 37),
        (NewTopic("ok", 100_000, 1), 37),
        (NewTopic("ok", 1, 3), 38),
    ],
)
def test_topics_are_refused_with_kafkas_codes(topic, error):
    assert link._refusal(topic)[0] == error


@pytest.mark.parametrize(
    ("version", "rest", "silent"),
    [
        (2, b"\x00\x00", True),
        (2, b"\xff\xff", False),
        (7, b"\xff\xff" + b"\x00\x00", True),
        (7, b"\xff\xff" + b"\x00\x01", False),
        (9, b"\x00" + b"\x00" + b"\x00\x00", True),
        (9, b"\x00" + b"\x03tx" + b"\xff\xff", False),
        (9, b"\x01\x00\x01x" + b"\x00" + b"\x00\x00", True),
        (7, b"", False),
    ],
)
def test_a_producer_that_wants_no_answer_is_recognised(version, rest, silent):
    """acks stands behind the client id, tags (v9) and the transactional id (v3)."""
    assert link._wants_no_answer(version, b"\x00\x02me" + rest) is silent


@pytest.mark.parametrize(("session_ms", "expected"), [(45_000, 10_000), (10_000, 10_000), (6, 6)])
def test_long_sessions_are_cut(session_ms, expected):
    """Only the four bytes of the session timeout change."""
    before, after = b"\x00\x01c\x00\x01g", b"\x00\x00\x75\x30rest"
    frame = before + struct.pack(">i", session_ms) + after
    assert link._shorter_session(5, frame) == before + struct.pack(">i", expected) + after


def test_create_topics_is_added_to_the_listed_requests():
    """One entry more, the rest of the answer unchanged."""
    entries, throttle = struct.pack(">hhh", 0, 0, 9), b"\x00\x00\x00\x00"
    body = link._add_create_topics(struct.pack(">hi", 0, 1) + entries + throttle)
    assert body == struct.pack(">hi", 0, 2) + entries + struct.pack(">hhh", 19, 0, 4) + throttle


def test_a_cluster_id_of_another_length_is_refused():
    """Replacing it would change the size of frames."""
    from kafka_utils.front import Front

    with pytest.raises(ValueError, match="as long as"):
        Front(1, lambda *_: 0).replace_cluster_id("abc", "abcd")


@pytest.mark.parametrize(
    ("version", "before", "name"),
    [(2, b"\x00\x01c", b"\x00\x02ab"), (9, b"\x00\x01c\x00", b"\x03ab")],
)
def test_commits_of_a_group_from_before_the_start_are_led_aside(version, before, name):
    """Only the group's name changes, keeping its length; joined groups and tools pass."""
    member, tool = struct.pack(">i", 2) + b"rest", struct.pack(">i", -1) + b"rest"
    aside = name.replace(b"ab", b"\x01\x01")
    assert link._led_aside(version, before + name + member, set()) == before + aside + member
    assert link._led_aside(version, before + name + member, {"ab"}) == before + name + member
    assert link._led_aside(version, before + name + tool, set()) == before + name + tool
