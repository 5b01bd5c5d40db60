import hashlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.search import hash_index
from autotune.search.hash_index import HashIndex


def sha256(i: int) -> str:
    return hashlib.sha256(str(i).encode()).hexdigest()


@given(st.lists(st.integers(0, 60), max_size=200), st.integers(1, 20))
def test_hashes_are_numbered_as_they_come(order: list[int], min_recent: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hash_index, "MIN_RECENT", min_recent)
        index, expected = HashIndex(), dict[str, int]()
        for i in order:
            known = sha256(i) in expected
            assert (sha256(i) in index) == known
            assert index.add(sha256(i)) == expected.setdefault(sha256(i), len(expected))
            assert len(index) == len(expected)
        assert [index.find(sha256(i)) for i in range(61)] == [expected.get(sha256(i)) for i in range(61)]


def test_smallest_and_largest_hash_are_told_from_what_is_not_there() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hash_index, "MIN_RECENT", 1)
        index = HashIndex()
        assert index.find("f" * 64) is None
        assert [index.add("f" * 64), index.add("0" * 64)] == [0, 1]
        assert index.find("0" * 63 + "f") == 1  # 64 bits are what is kept
        assert index.find("0" * 15 + "1" + "0" * 48) is None


def test_a_hash_takes_a_few_bytes() -> None:
    tracemalloc.start()
    try:
        index = HashIndex()
        for i in range(20_000):
            index.add(sha256(i))
        assert len(index) == 20_000
        assert tracemalloc.get_traced_memory()[0] < 50 * 20_000
    finally:
        tracemalloc.stop()
