"""The prefix tree: what it finds, what it shares, and what it lets go first."""

from hypothesis import given
from hypothesis import strategies as st

from treadle.runtime.cache.pages import KeyValues, PagePool
from treadle.runtime.cache.radix import PrefixTree


def make(num_pages: int = 32, page_size: int = 2) -> tuple[PagePool, PrefixTree]:
    pool = PagePool(KeyValues((1,), 1, num_pages, page_size))
    return pool, PrefixTree(pool)


def put(pool: PagePool, tree: PrefixTree, tokens: list[int], **options: object) -> list[int]:
    """Insert a text as a request would that computed all of it, and let it go."""
    pages = tree.insert(tokens, pool.allocate(len(tokens) // pool.page_size), **options)
    pool.release(pages)
    return pages


def test_longest_common_start_in_whole_pages():
    pool, tree = make()
    pages = put(pool, tree, [1, 2, 3, 4, 5, 6])
    assert tree.peek([1, 2, 3, 4, 9, 9]) == pages[:2]
    assert tree.peek([1, 2, 3, 9]) == pages[:1]
    assert tree.peek([1, 9]) == []
    assert tree.match([1, 2, 3, 4, 5]) == pages[:2]
    assert pool.holders[pages].tolist() == [2, 2, 1]


def test_equal_text_keeps_the_pages_that_came_first():
    pool, tree = make()
    first = put(pool, tree, [1, 2, 3, 4])
    second = put(pool, tree, [1, 2, 3, 4, 5, 6])
    assert second[:2] == first
    assert pool.num_free == 32 - 3


def test_salts_do_not_share():
    pool, tree = make()
    put(pool, tree, [1, 2, 3, 4], group="one")
    assert tree.peek([1, 2, 3, 4], "other") == []
    assert len(tree.peek([1, 2, 3, 4], "one")) == 2


def test_what_was_used_longest_ago_goes_first():
    pool, tree = make()
    old = put(pool, tree, [1, 1, 2, 2])
    new = put(pool, tree, [3, 3, 4, 4])
    pool.release(tree.match([1, 1, 2, 2]))
    tree.evict(1)
    assert tree.peek([3, 3, 4, 4]) == new[:1]
    assert tree.peek([1, 1, 2, 2]) == old


def test_the_important_stay_longer():
    pool, tree = make()
    put(pool, tree, [1, 1, 2, 2], priority=0)
    put(pool, tree, [3, 3, 4, 4], priority=5)
    pool.release(tree.match([3, 3, 4, 4], priority=5))
    assert tree.evict(2) == 2
    assert tree.peek([3, 3, 4, 4]) == []
    assert len(tree.peek([1, 1, 2, 2])) == 2


def test_held_pages_are_never_evicted():
    pool, tree = make()
    put(pool, tree, [1, 1, 2, 2, 3, 3])
    held = tree.match([1, 1, 2, 2])
    assert tree.num_evictable == 1
    assert tree.clear() == 1
    assert tree.peek([1, 1, 2, 2, 3, 3]) == held


def test_a_parent_goes_after_its_children():
    pool, tree = make()
    put(pool, tree, [1, 1, 2, 2])
    put(pool, tree, [1, 1, 3, 3])
    assert tree.num_pages == 3
    assert tree.clear() == 3
    assert pool.num_free == 32


@given(st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=12), st.integers(0, 20))
def test_finds_what_a_plain_search_finds(texts, num_evicted):
    """Against a set of all starts that were put in; and no page is lost or counted twice."""
    pool, tree = make(200, 2)
    starts: set[tuple[int, ...]] = set()
    for text in texts:
        whole = text[: len(text) // 2 * 2]
        put(pool, tree, whole)
        starts |= {tuple(whole[:end]) for end in range(2, len(whole) + 1, 2)}
    assert tree.num_pages == tree.num_evictable == len(starts) == 200 - pool.num_free
    for text in texts:
        expected = max(
            (n for n in range(0, len(text) + 1, 2) if tuple(text[:n]) in starts), default=0
        )
        assert 2 * len(tree.peek(text)) == expected
    freed = tree.evict(num_evicted)
    assert freed == min(num_evicted, len(starts))
    assert pool.num_free == 200 - len(starts) + freed


def nodes(tree: PrefixTree) -> list[int]:
    """Pages of every node, from the root on."""
    waiting, found = [c for r in tree._roots.values() for c in r.children.values()], []
    while waiting:
        node = waiting.pop()
        found.append(len(node.pages))
        waiting += node.children.values()
    return found


def test_a_node_takes_in_its_only_child_when_the_siblings_are_gone():
    pool, tree = make()
    put(pool, tree, [1, 1, 2, 2, 3, 3])
    for last in (7, 8, 9):  # texts part again and again, and the branches go
        put(pool, tree, [1, 1, 2, 2, last, last])
    assert sorted(nodes(tree)) == [1, 1, 1, 1, 2]
    kept = tree.match([1, 1, 2, 2, 3, 3])
    tree.evict(3)
    pool.release(tree.match([1, 1, 2, 2, 3, 3]))
    assert nodes(tree) == [3]
    assert tree.peek([1, 1, 2, 2, 3, 3]) == kept
    pool.release(kept)
    assert tree.clear() == 3


def test_nodes_of_different_importance_stay_apart():
    pool, tree = make()
    put(pool, tree, [1, 1, 2, 2], priority=0)
    put(pool, tree, [1, 1, 2, 2, 3, 3], priority=5)
    assert sorted(nodes(tree)) == [1, 2]


def test_a_path_of_any_depth():
    pool, tree = make(num_pages=3400, page_size=1)
    text = [number % 7 for number in range(1100)]
    for end in range(1, len(text)):  # a branch leaves at every page
        put(pool, tree, [*text[:end], 9])
    put(pool, tree, text)
    assert len(nodes(tree)) > 2 * 1000
    assert len(tree.peek(text)) == len(text)
    assert tree.clear() == 2 * len(text) - 1
    assert pool.num_free == 3400
