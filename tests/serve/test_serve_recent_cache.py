"""The cache of the server: what it drops, and how much memory clients can make it hold."""

import tracemalloc

from oneclip.serve.recent_cache import OVERHEAD, RecentCache


def test_what_was_not_used_for_the_longest_time_is_dropped() -> None:
    cache: RecentCache[str] = RecentCache(2)
    cache.put("a", "A")
    cache.put("b", "B")
    assert cache.get("a") == "A"
    cache.put("c", "C")
    assert [cache.get(key) for key in "abc"] == ["A", None, "C"]


def test_empty_values_do_not_fill_the_memory() -> None:
    cache: RecentCache[bytes] = RecentCache(10 * OVERHEAD, len)
    for number in range(20):
        cache.put(number, b"")
    assert sum(cache.get(number) is not None for number in range(20)) == 10


def test_a_value_above_the_limit_is_not_kept_and_drops_no_other() -> None:
    cache: RecentCache[bytes] = RecentCache(2 * OVERHEAD, len)
    cache.put("small", b"s")
    cache.put("large", bytes(2 * OVERHEAD))
    assert (cache.get("small"), cache.get("large")) == (b"s", None)


def test_a_long_key_is_not_kept() -> None:
    cache: RecentCache[int] = RecentCache(1000)
    tracemalloc.start()
    try:
        for number in range(100):
            cache.put(("text", "\ud800" * 100_000 + str(number)), number)
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    assert cache.get(("text", "\ud800" * 100_000 + "7")) == 7
