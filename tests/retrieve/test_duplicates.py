"""Near duplicates against brute force over all pairs."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from reactvl.retrieve import duplicates
from reactvl.retrieve.duplicates import TELLING, close_to, hamming_pairs, near, renumbered, similar_to, tables, telling

BITS = st.integers(0, 16)
SEEDS = st.integers(0, 2**32 - 1)


def some_hashes(seed: int, count: int, families: int) -> np.ndarray:
    """Hashes in families that differ by a few bits, with flat ones among them."""
    generator = np.random.default_rng(seed)
    roots = generator.integers(0, 2**64, families, dtype=np.uint64)
    roots[generator.random(families) < 0.2] &= np.uint64(7)
    found = roots[generator.integers(0, families, count)]
    for _ in range(12):
        flipped = generator.random(count) < 0.4
        found[flipped] ^= np.uint64(1) << generator.integers(0, 64, int(flipped.sum()), dtype=np.uint64)
    return found


def joined(alike: np.ndarray) -> np.ndarray:
    """The reference: components of a whole matrix of who is like whom."""
    return renumbered(connected_components(coo_array(alike), directed=False)[1])


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([[int(x ^ y).bit_count() for y in b.tolist()] for x in a.tolist()]).reshape(len(a), len(b))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, count=st.integers(0, 60), families=st.integers(1, 12), bits=BITS)
def test_groups_by_hash_are_those_of_all_pairs(seed, count, families, bits):
    hashes = some_hashes(seed, count, families)
    able = telling(hashes)
    assert able.tolist() == [value.bit_count() >= TELLING for value in hashes.tolist()]
    alike = (distances(hashes, hashes) <= bits) & able[:, None] & able
    rows = np.arange(count)
    assert near(rows, hashes=hashes, bits=bits).tolist() == joined(alike | np.eye(count, dtype=bool)).tolist()
    for a, b in hamming_pairs(hashes, bits):
        assert alike[a, b].all()  # nothing is joined that is further apart


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, count=st.integers(0, 40), known=st.integers(0, 40), bits=BITS)
def test_closeness_to_known_hashes(seed, count, known, bits):
    hashes, others = np.split(some_hashes(seed, count + known, 8), [count])
    able = telling(hashes)[:, None] & telling(others)
    assert close_to(hashes, others, bits).tolist() == ((distances(hashes, others) <= bits) & able).any(axis=1).tolist()


@pytest.mark.parametrize("bits", [0, 1, 4, 7, 16])
@pytest.mark.parametrize("count", [10, 30_000, 10**9])
def test_the_bands_of_any_size_miss_no_pair(bits, count):
    """Whatever `bits` bits differ, two hashes agree under one mask at least."""
    masks = np.array(tables(count, count, bits), dtype=np.uint64)
    generator = np.random.default_rng(bits)
    for _ in range(300):
        flips = generator.choice(64, bits, replace=False)
        difference = np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64), initial=np.uint64(0))
        assert (masks & difference == 0).any()
    with pytest.raises(ValueError, match="bits is 17"):
        tables(10, 10, 17)


def some_vectors(seed: int, count: int, width: int, families: int, spread: float) -> np.ndarray:
    """float16 vectors in families, off the origin as CLIP's are, some missing."""
    generator = np.random.default_rng(seed)
    roots = generator.standard_normal((families, width)) + 1.0
    found = roots[generator.integers(0, families, count)] + spread * generator.standard_normal((count, width))
    found = found / np.linalg.norm(found, axis=1, keepdims=True) * generator.uniform(0.5, 2, (count, 1))
    found[generator.random(count) < 0.05] = 0
    found[generator.random(count) < 0.03] = np.nan
    return found.astype(np.float16)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64, minus one where either is no vector."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num((a @ b.T) / lengths, nan=-1.0)


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    count=st.integers(0, 150),
    width=st.sampled_from([3, 16, 64, 90]),
    families=st.integers(1, 20),
    spread=st.sampled_from([0.0, 0.05, 0.2, 0.4]),
    cosine=st.sampled_from([0.6, 0.9, 0.97, 0.999]),
    block=st.sampled_from([7, 2048]),
)
def test_groups_by_vector_are_those_of_all_pairs(seed, count, width, families, spread, cosine, block):
    vectors = some_vectors(seed, count, width, families, spread)
    similar = cosines(vectors, vectors)
    assume((np.abs(similar - cosine) > 1e-9).all())  # else decided by rounding alone
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BLOCK", block)
        patch.setattr(duplicates, "VERIFY", 5 * block)
        found = near(np.arange(count), vectors=vectors, cosine=cosine)
        assert found.tolist() == joined((similar >= cosine) | np.eye(count, dtype=bool)).tolist()
        half = count // 2
        asked = similar_to(vectors[:half], vectors[half:], cosine)
    assert asked.tolist() == (similar[:half, half:] >= cosine).any(axis=1).tolist()


def test_equal_vectors_are_near_at_a_cosine_of_one():
    vectors = np.random.default_rng(0).standard_normal((50, 100)).astype(np.float16)
    vectors[25:] = vectors[:25]
    assert near(np.arange(50), vectors=vectors, cosine=1.0).tolist() == [*range(25), *range(25)]


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, count=st.integers(1, 80))
def test_notions_join_each_other_and_the_bytes(seed, count):
    """Copies stay together, hashes and vectors join what they each join, and order changes nothing but numbers."""
    generator = np.random.default_rng(seed)
    picture = generator.integers(0, count, count)
    hashes = some_hashes(seed, count, 8)[picture]
    vectors = some_vectors(seed, count, 20, 8, 0.1)[picture]
    able = telling(hashes)
    alike = (distances(hashes, hashes) <= 4) & able[:, None] & able
    alike |= (cosines(vectors, vectors) >= 0.97) | (picture[:, None] == picture)
    expected = joined(alike)
    assert near(picture, hashes=hashes, vectors=vectors).tolist() == expected.tolist()
    order = generator.permutation(count)
    mixed = near(picture[order], hashes=hashes[order], vectors=vectors[order])
    assert mixed.tolist() == renumbered(expected[order]).tolist()
    assert near(picture).tolist() == renumbered(picture).tolist()


def test_crowds_of_equal_and_like_hashes(monkeypatch):
    """A placeholder picture that half a pool shows, in many encodings: joined in bounded memory."""
    monkeypatch.setattr(duplicates, "EDGES", 1000)
    generator = np.random.default_rng(1)
    crowd = np.full(20_000, 0xF0F0F0F0F0F0F0F0, dtype=np.uint64)
    crowd[:2000] ^= np.uint64(1) << generator.integers(0, 64, 2000, dtype=np.uint64)
    others = generator.integers(0, 2**64, 20_000, dtype=np.uint64)
    found = near(np.arange(40_000), hashes=np.concatenate([crowd, others]))
    assert (found[:20_000] == 0).all() and len(set(found[20_000:].tolist())) > 19_900


def test_progress_counts_every_row():
    seen = []
    vectors = some_vectors(0, 5000, 8, 5000, 0.1)
    near(np.arange(5000) // 2, vectors=vectors, advance=seen.append)
    assert sum(seen) == 2500


@pytest.mark.parametrize("cosine", [0.0, -1.0, 1.1])
def test_thresholds_out_of_range(cosine):
    with pytest.raises(ValueError, match="cosine is"):
        near(np.arange(2), vectors=np.ones((2, 3)), cosine=cosine)
